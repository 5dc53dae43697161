"""The terms of the target loss against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossfeed.model.losses import (
    GAPS,
    anchor_loss,
    binary_loss,
    euclidean_gap,
    gap_loss,
    generator_loss,
    kl_gap,
    mmd_gap,
    softmax_loss,
)


def log(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def test_softmax_loss_by_hand() -> None:
    # Corrected scores are log 4 - log 0.5 = log 8, log 1 - log 0.25 = log 4, log 1 - log 0.25.
    loss = softmax_loss(
        log(4.0),
        log(1.0, 1.0).unsqueeze(0),
        click_log_proposal=log(0.5),
        candidate_log_proposal=log(0.25, 0.25).unsqueeze(0),
        correction=1.0,
    )
    assert loss.item() == pytest.approx(-math.log(8 / 16))


def test_softmax_loss_without_correction_ignores_the_proposal() -> None:
    loss = softmax_loss(
        log(4.0),
        log(1.0, 3.0).unsqueeze(0),
        click_log_proposal=log(0.01),
        candidate_log_proposal=log(0.9, 0.2).unsqueeze(0),
        correction=0.0,
    )
    assert loss.item() == pytest.approx(-math.log(4 / 8))


def test_binary_loss_by_hand() -> None:
    # sigma(log 3) = 3/4 for the click; sigma(log 1) = 1/2 and sigma(log 1/3) = 1/4 are called fake.
    loss = binary_loss(
        log(3.0),
        log(1.0, 1 / 3).unsqueeze(0),
        click_log_proposal=log(0.5),
        candidate_log_proposal=log(0.1, 0.1).unsqueeze(0),
        correction=0.0,
    )
    assert loss.item() == pytest.approx(-math.log(3 / 4 * 1 / 2 * 3 / 4) / 3)


def test_binary_loss_correction_is_noise_contrastive() -> None:
    # With K = 2 the corrected click is log 3 - log(2 * 0.5) = log 3, candidates log(1 / 0.5).
    loss = binary_loss(
        log(3.0),
        log(1.0, 1.0).unsqueeze(0),
        click_log_proposal=log(0.5),
        candidate_log_proposal=log(0.25, 0.25).unsqueeze(0),
        correction=1.0,
    )
    assert loss.item() == pytest.approx(-math.log(3 / 4 * 1 / 3 * 1 / 3) / 3)


def test_generator_loss_value_by_hand() -> None:
    # On-policy (q = g): the mean of log g - s.
    confidence = log(0.5, 0.25).unsqueeze(0)
    loss = generator_loss(confidence, torch.tensor([[1.0, 2.0]]), candidate_log_proposal=confidence)
    assert loss.item() == pytest.approx((math.log(0.5) - 1 + math.log(0.25) - 2) / 2)


def test_generator_loss_gradient_is_that_of_the_divergence() -> None:
    """Over many draws the estimate's gradient is that of KL(g || softmax(s)), by autograd."""
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0], dtype=torch.float64)
    logits = torch.tensor([1.0, 0.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    confidence = logits.log_softmax(0)
    exact = (confidence.exp() * (confidence - scores)).sum()
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)

    proposal = 0.5 * confidence.detach().exp() + 0.5 / 4  # off-policy: half is uniform
    drawn = torch.multinomial(proposal, 400_000, replacement=True).reshape(4_000, 100)
    loss = generator_loss(
        confidence[drawn], scores[drawn], candidate_log_proposal=proposal.log()[drawn]
    )
    (estimate,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(estimate, expected, atol=0.01, rtol=0)
    assert loss.item() == pytest.approx(exact.item(), abs=0.02)


def test_generator_loss_gives_the_discriminator_no_gradient() -> None:
    scores = torch.zeros(1, 2, requires_grad=True)
    confidence = torch.tensor([[0.5, 0.5]]).log().requires_grad_()
    generator_loss(confidence, scores, candidate_log_proposal=confidence).backward()
    assert scores.grad is None
    assert confidence.grad is not None


def test_anchor_loss_by_hand() -> None:
    assert anchor_loss(log(0.5, 0.125)).item() == pytest.approx(2 * math.log(2))


@given(st.floats(0, 50), st.floats(0.001, 50))
def test_larger_gap_smaller_loss(gap: float, more: float) -> None:
    near = gap_loss(torch.tensor(gap, dtype=torch.float64))
    far = gap_loss(torch.tensor(gap + more, dtype=torch.float64))
    assert 0 <= far < near <= 1 or far == near == 0


@pytest.fixture
def two_items() -> tuple[Tensor, Tensor, Tensor]:
    """Return clicks all on item 0, confidence 1/4 in it, and vectors at distance 5."""
    clicks = torch.tensor([0, 0])
    confidence = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    return clicks, confidence, vectors


def test_euclidean_gap_by_hand(two_items: tuple[Tensor, Tensor, Tensor]) -> None:
    # Click mean is (0, 0), candidate mean 3/4 of (3, 4).
    assert euclidean_gap(*two_items).item() == pytest.approx(3.75)


def test_kl_gap_by_hand(two_items: tuple[Tensor, Tensor, Tensor]) -> None:
    # Smoothed clicks are (2 + 1/2, 1/2) / 3.
    expected = 5 / 6 * math.log(5 / 6 / 0.25) + 1 / 6 * math.log(1 / 6 / 0.75)
    assert kl_gap(*two_items).item() == pytest.approx(expected)


def test_kl_gap_leaves_out_what_all_rows_have_seen(
    two_items: tuple[Tensor, Tensor, Tensor],
) -> None:
    clicks, confidence, vectors = two_items
    wider = torch.cat([confidence, torch.zeros(2, 3, dtype=torch.float64)], 1)
    assert kl_gap(clicks, wider, vectors).item() == pytest.approx(kl_gap(*two_items).item())


def test_kl_gap_of_a_sample_by_hand() -> None:
    """Half of six like items stand for all of them, beside the click, which is always there."""
    clicks = torch.tensor([0, 0])
    whole = torch.tensor([[0.4] + 6 * [0.1]], dtype=torch.float64).expand(2, 7)
    inclusion = torch.tensor([1.0, 0.5, 0.5, 0.5], dtype=torch.float64)
    none = torch.zeros(0)
    found = kl_gap(clicks, whole[:, :4] / inclusion, none, None, inclusion.log())
    assert found.item() == pytest.approx(kl_gap(clicks, whole, none).item())
    # A row's own click counts once: 0.4 in the first row and, seen by the other, 0.2 / pi.
    masses = torch.tensor([[0.4, 0.6 / 0.5], [0.2 / 0.5, 0.8]], dtype=torch.float64)
    found = kl_gap(torch.tensor([0, 1]), masses, none, None, log(0.5, 0.5))
    # Each item stands for two: p = (1 + 1/4) / 3, and (1 + 2/4) / 3 of the sum over the pool.
    expected = (math.log(5 / 12 / 0.3) + math.log(5 / 12 / 0.7)) / 2
    assert found.item() == pytest.approx(expected)


def test_kl_gap_of_samples_is_about_that_of_the_pool() -> None:
    torch.manual_seed(0)
    logits = torch.randn(8, 400, dtype=torch.float64)
    clicks, weights = torch.arange(8), torch.rand(400) + 0.2
    whole = kl_gap(clicks, logits.softmax(1), logits)
    found = []
    for _ in range(40):
        drawn = (torch.rand(400) < weights.clamp_max(1)).index_fill(0, clicks, True)
        inclusion = weights.clamp_max(1).double().index_fill(0, clicks, 1.0)[drawn]
        masses = (logits[:, drawn] - inclusion.log()).softmax(1)
        found.append(kl_gap(clicks, masses, logits, None, inclusion.log()))
    assert torch.stack(found).mean().item() == pytest.approx(whole.item(), rel=0.02)


def test_mmd_gap_by_hand(two_items: tuple[Tensor, Tensor, Tensor]) -> None:
    # The difference is (3/4, -3/4); mean squared distance of the four pairs is 12.5.
    kernel = math.exp(-25 / 12.5)
    expected = math.sqrt(2 * 0.75**2 * (1 - kernel))
    assert mmd_gap(*two_items).item() == pytest.approx(expected, rel=0.1)  # random features


@pytest.mark.parametrize("name", sorted(GAPS))
def test_gap_is_least_where_candidates_are_clicks(name: str) -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4, 3, dtype=torch.float64)
    clicks = torch.tensor([0, 1])
    near = torch.tensor([[0.45, 0.45, 0.05, 0.05]], dtype=torch.float64)
    far = torch.tensor([[0.05, 0.05, 0.45, 0.45]], dtype=torch.float64)
    assert GAPS[name](clicks, near, vectors) < GAPS[name](clicks, far, vectors)


@pytest.mark.parametrize("name", sorted(GAPS))
def test_gap_moves_the_generators_choice_alone(name: str) -> None:
    """Even where both distributions are equal the gradient is finite, and vectors get none."""
    vectors = torch.randn(3, 2, requires_grad=True)
    logits = torch.tensor([[0.0, 0.0, -9.0], [0.0, 0.0, -9.0]], requires_grad=True)
    loss = gap_loss(GAPS[name](torch.tensor([0, 1]), logits.softmax(1), vectors))
    loss.backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is None
    assert logits.grad is not None and bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("seed", range(5))
def test_mmd_gap_is_near_that_of_the_kernel_written_out(seed: int) -> None:
    torch.manual_seed(seed)
    vectors, confidence = torch.randn(40, 8) * 3 + 5, torch.rand(6, 40).softmax(1)
    clicks = torch.randint(40, (6,))
    squared = torch.cdist(vectors, vectors).square()
    kernel = torch.exp(-squared / squared.mean())
    difference = torch.bincount(clicks, minlength=40) / 6 - confidence.mean(0)
    expected = (difference @ kernel @ difference).sqrt().item()
    assert mmd_gap(clicks, confidence, vectors).item() == pytest.approx(expected, rel=0.1)
