"""Text to checked workflow to plan: one model with many spellings, kept as tables.

`files.load_project` reads what a person wrote, `planning.plan` makes the jobs of one run out of it
and `planning.find_problems` says everything that is wrong with it. New spellings are rows: keys in
`keys`, hardware in `resources`, providers in `dstack_scheduler.providers`.
"""
