"""The only SQL of the program: tables, connection, arrivals, queue, results, worklist, reading.

Nothing is imported here: `reading` and `revision` must stay free of the ORM layer.
"""
