"""The folder of a job, which tests of processes may ask for."""

from support.processes import folder as folder
