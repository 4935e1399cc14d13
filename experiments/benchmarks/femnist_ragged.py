"""B3: the FEMNIST CNN on clients of uneven sizes.

Command: python -m experiments.benchmarks.femnist_ragged [--data=femnist.npz]
Time: two minutes on 2 CPU cores, most of it with cohorts of 100.

3400 clients with log-normal sizes around 198, conv5x5x32 - conv5x5x64 - 512 -
62 (1,690,046 parameters), one epoch in batches of 20, cohorts of 10 and 100.
"""

from experiments.benchmarks import benchmark

if __name__ == '__main__':
  benchmark.main('femnist_ragged')
