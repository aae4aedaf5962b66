"""What a job needs. Every number is a minimum; zero or empty asks for nothing."""

from dstack_mesh.frozen import frozen


@frozen
class Needs:
    """Resources of one job.

    Attributes:
        cpus: Logical processors.
        memory_bytes: Memory; a decimal size from the workflow (16GB = 16 * 10**9).
        gpus: Number of cards.
        gpu_name: Words that each card's model must contain as whole tokens, as "V100"; commas
            separate models any of which will do.
        gpu_memory_bytes: Memory of each card.
        gpu_memory_most_bytes: Cards with more are left to others; 0 for no such end.
        shm_bytes: Size of /dev/shm; counts against memory.
        interruptible: May run where the owner can take the machine back.
    """

    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_name: str = ""
    gpu_memory_bytes: int = 0
    shm_bytes: int = 0
    interruptible: bool = False
    gpu_memory_most_bytes: int = 0
