"""AutoAttack in less time."""

import pytest


@pytest.fixture
def shortened(monkeypatch):
    """Square with fewer queries and FAB with fewer steps: they take most of AutoAttack's time."""
    module, fab = (pytest.importorskip(f"pyautoattack.{name}") for name in ("square", "fab_base"))
    run, perturb = module.SquareAttack.attack_single_run, fab.FABAttack.perturb

    def shorter_square(self, images, labels):
        self.n_queries = min(self.n_queries, 300)
        return run(self, images, labels)

    def shorter_fab(self, images, labels):
        self.n_iter = min(self.n_iter, 20)
        return perturb(self, images, labels)

    monkeypatch.setattr(module.SquareAttack, "attack_single_run", shorter_square)
    monkeypatch.setattr(fab.FABAttack, "perturb", shorter_fab)
