"""The policy lab: replay a recording of tasks under several policies, and compare what became of them.

A *recording* says what arrived and how long it ran. A *replay* is a discrete-event simulation of the queue and its
workers that runs the same policy, levels and planner as production. It is open loop: the tasks of the recording arrive
when they did, however long they wait.
"""
