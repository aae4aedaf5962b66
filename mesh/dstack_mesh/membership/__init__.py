"""Who is there: a pure view of the agents of a mesh and the shell that asks them."""
