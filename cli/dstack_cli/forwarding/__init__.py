"""Apps of jobs on this machine: ports that lead to them, links that work, and who opens them."""
