"""The random matrices of a seed: vera's generator against torch's uniform_, the same bits.

A [1024, 8192] and B [8192, 1024], 16.8 million values, drawn into memory that is there already, one thread
(torch has one for this too).
"""
import hashlib
import math

from common import Machine, measure, report, timed

RANK, FEATURES = 1024, 8192
LEVELS = ["avx512", "avx2", "scalar"]

try:
    import torch
except ImportError:
    torch = None


class Torch:
    """What PEFT does (tuners/vera/model.py, _kaiming_init), into tensors that are there."""

    def __init__(self):
        self.a, self.b = torch.zeros(RANK, FEATURES), torch.zeros(FEATURES, RANK)

    def draw(self):
        generator = torch.Generator("cpu").manual_seed(0)
        for tensor, fan_in in ((self.a, FEATURES), (self.b, RANK)):
            bound = math.sqrt(3) * math.sqrt(2) / math.sqrt(fan_in)
            tensor.uniform_(-bound, bound, generator=generator)

    def digest(self):
        return hashlib.sha256(self.a.numpy().tobytes()).hexdigest()


def main():
    machine = Machine()
    best = machine.ask("level")[0]
    levels = LEVELS[LEVELS.index(best):]
    contestants = {f"vera, {level}": lambda level=level: machine.seconds(f"basis {level}") for level in levels}
    goals = {}
    if torch:
        drawer = Torch()
        contestants["torch uniform_"] = lambda: timed(drawer.draw)
        goals["torch uniform_"] = 8
    contestants["limit: memset of the same memory"] = lambda: machine.seconds("store")
    times = measure(contestants)
    report("basis: time per value", times, "ns", 1e9 / (2 * RANK * FEATURES), goals)
    if torch:
        same = machine.ask(f"basis {best}")[1] == drawer.digest()
        print(f"  torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}); "
              f"{'the same bits as' if same else 'OTHER BITS THAN'} torch's")


main()
