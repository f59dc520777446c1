"""Four applications with ordinary connection pools, doing the mixed work of a small shop.

Each is a program that gets a plan (`run.plan_of`) as JSON in its only argument: where the server is, the size of its
pool, how many workers, and phases that are repeated until the time is over:

    burst   every connection of the pool runs one short SELECT, all at once
    work    the workers serve requests, with a pause between two of them
    idle    nothing; the connections stay in the pool

A request is a page (some short SELECTs), an order (a transaction that is now and then rolled back), a report (a second
or two) or an export (more than a megabyte of rows, read as they come). Every second the program writes a line of JSON
with what it has done so far (`finished`: it has done all), and errors as text to stderr. After its time it keeps its
pool until stdin ends.
"""
