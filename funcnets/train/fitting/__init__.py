"""A whole run around a step: `fit`, and what it is made of.

fit, loop               arguments; calls, reports, checkpoints, ends
resuming                whether a directory holds what a run can go on from
feed, pace              the batch of a step, and how many steps a call takes
pending                 metrics on their way from the device to the history
history, curves         what was measured, as arrays and as a picture
journals                logs, as callbacks
interruption            signals that wait for the step under way
progress, profiling     the bar, and traces of chosen steps
"""
