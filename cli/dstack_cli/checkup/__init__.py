"""What `dstack doctor` looks at.

Each check either looks at this machine by itself, or judges what one survey of the network saw.
Judgements are pure; `survey` does the looking.
"""
