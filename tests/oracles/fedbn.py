"""The toy net has no BatchNorm: nothing is local."""

from tests.oracles.fedavg import oracle

__all__ = ['oracle']
