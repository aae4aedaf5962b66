"""What runs on the host. Standard library only, and sent as source: nothing of ours is there yet.

Each module answers one request: `answer(request, body, tell)` gets what the laptop sent, the bytes
that follow it, and how to say how far it got; its result goes back as JSON.
"""
