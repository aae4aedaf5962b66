"""Connected stores that tests of the transfer may ask for."""

from support.two_stores import two as two
