"""Whole-run programs in CUDA C++, written for one network: all steps in one launch.

`program.py` has what every program shares; three writers lay a network out differently:

- `rows.py`: a thread holds the network, or several lanes hold it together and take the batch's rows in turn. For small
  networks: one a thread, thousands at a time; or one network whose batch fills a warp.
- `units.py`: a warp holds one network, a lane a unit. The shortest way through a step of one row.
- `block.py`: a block holds one network in shared memory, or in the caches. For what does not fit into registers.

`choice.py` says which one a recipe gets.
"""
