"""What happened to this machine and its mesh, in the order it happened: lines that name each other.

`entry` says what a line holds, `chain` what makes lines one log, `log` writes and `reading` reads
it, `auditor` decides what is worth a line.
"""
