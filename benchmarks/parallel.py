"""A training step on paper beside counters on real ranks, then on 256 and 1,024 GPUs.

python benchmarks/parallel.py

First the bytes that W gloo ranks really send in a step, read from the kernel (TCP_INFO of each process's sockets),
beside `diptych.plan.wire`; then the memory that a process really takes, beside `diptych.plan.memory`; then the model
alone for the paper's nine models at batch 32,768. The text beside the figures is docs/scale.md.
"""
