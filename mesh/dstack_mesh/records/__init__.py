"""What all peers know: records with one writer each, spread by gossip, the same everywhere.

The invariant: *what a peer holds of a writer at a version is what the writer held when it wrote
that version.* A writer signs with each version a head that names the exact set of its live records
by hash. Whatever frames arrive, in whatever order, twice, cut off or from whomever: what they make
is taken over whole if it adds up to a signed head that is newer, and not at all otherwise. So a
merge takes the newest head of each writer, and is commutative, associative and idempotent.
"""
