"""Training: one loop, tasks and recipes as its arguments."""

from fusiform.machine import wait_without_spinning

wait_without_spinning()  # here, before any module of this package imports PyTorch
