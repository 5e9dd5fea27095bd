"""CIFAR-100 as the distillation benchmarks train it: one recipe a method, for any of their pairs."""
