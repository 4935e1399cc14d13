"""B1: the CIFAR-10 benchmark of pfl-research.

Command: python -m experiments.benchmarks.cifar10_cnn [--data=cifar10.npz]
Time: about a minute on 2 CPU cores.

1000 clients of 50 images, cohorts of 50, one epoch in batches of 10, SGD at
0.1, a CNN of 1,626,442 parameters with dropout.  Random pixels unless an npz
file is given: the work is the same.
"""

from experiments.benchmarks import benchmark

if __name__ == '__main__':
  benchmark.main('cifar10_cnn')
