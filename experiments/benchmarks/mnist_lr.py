"""B2: logistic regression on clients of very different sizes.

Command: python -m experiments.benchmarks.mnist_lr [--data=mnist.npz]
Time: about a minute on 2 CPU cores.

Logistic regression 784-10, 1000 clients with power-law sizes of mean 60,
cohorts of 10, 100 and 1000, one epoch in batches of 10: steps so small that
the time is what lies around them.
"""

from experiments.benchmarks import benchmark

if __name__ == '__main__':
  benchmark.main('mnist_lr')
