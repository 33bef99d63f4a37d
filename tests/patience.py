"""How long a test waits for what has to happen: for as long as a busy machine may need.

Nothing is judged by it. Where a test is about how soon or how late something comes, the kernel
and the server's log tell when it came; see ``end_to_end/instants.py``.
"""

PATIENCE = 60.0  # seconds; Python with its imports may need ten, with many others beside it
