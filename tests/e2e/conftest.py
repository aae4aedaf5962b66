"""Real parts that end-to-end tests may ask for."""

from support.container_bench import bench as bench
from support.docker_lab import busybox as busybox
from support.docker_lab import docker_lab as docker_lab
from support.docker_lab import python_image as python_image
from support.one_agent import process as process
from support.trouble import founder as founder
from support.trouble import home as home
