"""A run directory: what is in it, and how a trained network comes out of it.

RUN/run.json            config, class names, ids of each split, versions: written once, before the first step
RUN/metrics.jsonl       numbers over time
RUN/checkpoints/STEP/   Orbax: the newest and the best
RUN/pictures/           curves and validation pictures
"""
