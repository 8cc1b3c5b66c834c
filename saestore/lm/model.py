"""The frozen language model under study: load it, read its hookpoints, patch it, take its loss."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from saestore.errors import HookpointNotFoundError, UnsupportedError
from saestore.lm import load
from saestore.lm.attention import Attention, attention_of
from saestore.lm.hookpoints import HookpointInfo, Hookpoints, survey, tiny_tokens
from saestore.lm.hooks import Enough, Function, hooked
from saestore.lm.losses import NextTokenLoss, Predictions
from saestore.lm.place import FIELD
from saestore.lm.plain import agree
from saestore.lm.residual import into_stream
from saestore.lm.row_map import TRIED, RowMap, row_map
from saestore.lm.tokenizer import LmTokenizer
from saestore.lm.unembedding import FinalNorm, Unembedding, final_norm_of, unembedding_of
from saestore.lm.vocabulary import vocabulary_of
from saestore_schemas.activations import RowCapture
from saestore_schemas.lm import LmSettings


HEAD = "unembed.hook_in"
"""Where the final norm's output enters the unembedding."""
FINAL = "ln_final.hook_in"
"""Where the residual stream enters the final norm."""


class LanguageModel:
    """A language model that only runs forward.

    Attributes:
        settings: The settings that loaded it.
        name: Hub name or directory, as the settings say it.
        revision: The commit on the hub; None for a local directory.
        fingerprint: Digest of the weights as loaded.
        d_model: Width of the residual stream.
        n_layers: Blocks.
        n_vocab: Rows of the unembedding; the tokenizer may have fewer tokens.
        tokenizer: Its tokenizer.
    """

    def __init__(self, loaded: load.Loaded, settings: LmSettings) -> None:
        self._bridge = loaded.bridge
        self._plain = loaded.plain
        self._points: Mapping[str, Any] = loaded.bridge.hook_dict
        self.settings = settings
        self.name = settings.model
        self.revision = loaded.revision
        self.fingerprint = loaded.fingerprint
        self.tokenizer: LmTokenizer = loaded.tokenizer
        self.d_model = int(loaded.bridge.cfg.d_model)
        self.n_layers = int(loaded.bridge.cfg.n_layers)
        head = loaded.bridge.original_model.get_output_embeddings().weight
        self.n_vocab = int(head.shape[0])
        self.device: torch.device = head.device
        self.dtype: torch.dtype = head.dtype

    @classmethod
    def load(
        cls, settings: LmSettings, *, device: str = "auto", field: str = FIELD
    ) -> "LanguageModel":
        """Load a model; no socket is opened for a local directory.

        Args:
            settings: Which model, and how its weights are used.
            device: `auto`, or what torch understands, such as `cpu` or `cuda:1`.
            field: The setting that names the model, for errors.

        Raises:
            ConfigError: There is no such model, or it cannot be read.
            UnsupportedError: TransformerLens does not know its architecture.
            MissingExtraError: TransformerLens is not installed.
        """
        return cls(load.load(settings, device=device, field=field), settings)

    @staticmethod
    def check(settings: LmSettings, *, field: str = FIELD) -> None:
        """Find a model for work that needs it only later, without reading its weights.

        Args:
            settings: Which model.
            field: The setting that names it, for errors.

        Raises:
            ConfigError: There is no such model.
            MissingExtraError: TransformerLens is not installed.
        """
        load.check(settings, field=field)

    @cached_property
    def _hookpoints(self) -> Hookpoints:
        return survey(self._bridge, model=self.name, n_vocab=self.n_vocab)

    @cached_property
    def _loss(self) -> NextTokenLoss:
        return NextTokenLoss.of(self._bridge)

    def hookpoints(self) -> dict[str, HookpointInfo]:
        """Return every place that can be read, in the order of the forward pass."""
        return dict(self._hookpoints.infos)

    def match(self, patterns: Sequence[str]) -> list[str]:
        """Return the hookpoints that exact names or globs mean, each once, in forward order.

        Raises:
            HookpointNotFoundError: A pattern matches nothing; the nearest names are given.
        """
        return self._hookpoints.match(patterns)

    @torch.inference_mode()
    def capture(
        self,
        tokens: Int64[Tensor, "batch position"],
        hookpoints: Sequence[str],
        beside: Sequence[RowCapture] = (),
    ) -> dict[str, Float[Tensor, "batch position _"]]:
        """Return what passes by some hookpoints; the forward stops after the last of them.

        Attention is causal, so contexts of different lengths may be padded on the right with any
        token: the rows of real tokens do not see it, and the caller drops the others.

        Args:
            tokens: Token ids.
            hookpoints: Exact names, each once in the result.
            beside: What else of each row, under its name and one wide; it takes all blocks.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint, or it did not fire.
            UnsupportedError: It has no final norm, and its scale is wanted.
        """
        if not beside:
            return self._seen(tokens, hookpoints, {})
        scale = self.final_norm.scale
        found = self._seen(tokens, dict.fromkeys((*hookpoints, FINAL)), {})
        entering = found[FINAL] if FINAL in hookpoints else found.pop(FINAL)
        return {**found, **{name: scale(entering).unsqueeze(-1) for name in beside}}

    def between(
        self,
        tokens: Int64[Tensor, "context position"],
        given: Mapping[str, Float[Tensor, "batch position _"]],
        hookpoints: Sequence[str],
    ) -> dict[str, Float[Tensor, "batch position _"]]:
        """Return what passes by some hookpoints while given rows pass by others, differentiable in these.

        Args:
            tokens: Token ids, as many contexts as of the rows, or one for all of them.
            given: What stands in for what passes by each of these hookpoints.
            hookpoints: Exact names, each once in the result.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint, or it did not fire.
        """

        def instead(rows: Tensor) -> Function:
            return lambda value: rows.to(value).reshape(*rows.shape[:2], *value.shape[2:])

        with warnings.catch_warnings():
            # A changed norm goes through TransformerLens' own arithmetic, which is equal but for rounding.
            warnings.simplefilter("ignore")
            return self._seen(
                tokens, hookpoints, {name: instead(rows) for name, rows in given.items()}
            )

    def row_map(self, reads: str, writes: str) -> RowMap:
        """Return what the model computes from single rows at a hookpoint to rows at another, such as an MLP.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint.
            UnsupportedError: It computes nothing in between, or not of single rows.
        """
        for name in (reads, writes):
            self._point(name)
        tokens = torch.arange(TRIED).remainder(self.n_vocab).unsqueeze(0)
        rows = self.capture(tokens, [reads])[reads][0].float()

        def between(given: Tensor, stand_in: Tensor) -> Tensor:
            return self.between(given, {reads: stand_in}, [writes])[writes]

        return row_map(between, rows, tokens, (reads, writes))

    def _seen(
        self, tokens: Tensor, hookpoints: Iterable[str], changes: Mapping[str, Function]
    ) -> dict[str, Tensor]:
        """Return what passes by some hookpoints, with functions at others."""
        seen: dict[str, Tensor] = {}
        wanted = dict.fromkeys(hookpoints)

        def keep(name: str) -> Function:
            def note(value: Tensor) -> None:
                seen[name] = value.flatten(2)
                if len(seen) == len(wanted):
                    raise Enough

            return note

        hooks = [(self._point(name), function) for name, function in changes.items()]
        self._forward(tokens, [*hooks, *((self._point(name), keep(name)) for name in wanted)])
        for name in wanted:
            if name not in seen:
                raise HookpointNotFoundError(
                    pattern=name, where=self.name, known=tuple(self._hookpoints.infos)
                )
        return {name: seen[name] for name in wanted}

    @torch.inference_mode()
    def token_losses(
        self,
        tokens: Int64[Tensor, "batch position"],
        *,
        patches: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> Float32[Tensor, "batch position"]:
        """Return each position's cross-entropy of predicting the next token, in nats.

        The last position predicts nothing and has 0.

        Args:
            tokens: Token ids.
            patches: Functions by hookpoint; what passes by (batch, position, width) is replaced by
                what they return. A later patch sees what the earlier ones did.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint before its unembedding.
        """
        tokens = tokens.to(self.device)
        rows = self.final_rows(tokens, patches=patches)[:, :-1].reshape(-1, self.d_model)
        losses = torch.zeros(tokens.shape, dtype=torch.float32, device=self.device)
        losses[:, :-1] = self._loss(rows, tokens[:, 1:].reshape(-1)).view(len(tokens), -1)
        return losses

    @torch.inference_mode()
    def final_rows(
        self,
        tokens: Int64[Tensor, "batch position"],
        *,
        patches: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> Float[Tensor, "batch position d_model"]:
        """Return what enters the unembedding, some hookpoints replaced as in `token_losses`.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint before its unembedding.
        """
        held: list[Tensor] = []

        def end(value: Tensor) -> None:
            held.append(value)
            raise Enough

        hooks = [
            (self._point(name), _patch(function)) for name, function in (patches or {}).items()
        ]
        self._forward(tokens, [*hooks, (self._points[HEAD], end)])
        return held[0]

    @torch.inference_mode()
    def predictions(
        self,
        clean: Float[Tensor, "row d_model"],
        others: Sequence[Float[Tensor, "row d_model"]],
        targets: Int64[Tensor, " row"],
    ) -> list[Predictions]:
        """Return how rows of `final_rows` predict the next tokens, and others in their place.

        Args:
            clean: Rows of the model as it is.
            others: The same rows with something replaced.
            targets: The token after each.
        """
        return self._loss.compared(clean, others, targets.to(self.device))

    def unembedding(self) -> Unembedding:
        """Return the final norm and the unembedding matrix, on the CPU."""
        return unembedding_of(self._bridge)

    @cached_property
    def final_norm(self) -> FinalNorm:
        """The final norm, on the CPU.

        Raises:
            UnsupportedError: It has none.
        """
        found = final_norm_of(self._bridge)
        if found is None:
            raise UnsupportedError(
                f"{self.name} has no final norm",
                found="logits straight from the residual stream",
                expected="a LayerNorm or RMSNorm before the unembedding",
                hint="leave final_norm_scale out of capture",
            )
        return found

    @torch.inference_mode()
    def into_stream(self, hookpoint: str) -> Float32[Tensor, "d_out d_model"] | None:
        """Return the matrix by which rows at a hookpoint enter the residual stream; None, as they are.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint.
            UnsupportedError: They do not enter it, or by more than a matrix.
        """
        self._point(hookpoint)
        tokens = tiny_tokens(self.n_vocab)
        return into_stream(self._bridge, hookpoint, lambda names: self.capture(tokens, names))

    def attention(self, reads: str, writes: str) -> Attention:
        """Return the attention between two hookpoints as plain matrices, on the CPU.

        Raises:
            HookpointNotFoundError: The model has no such hookpoint.
            UnsupportedError: They are not input and output of one attention.
        """
        for name in (reads, writes):
            self._point(name)
        return attention_of(self._bridge, reads, writes)

    def vocabulary(self) -> pa.Table:
        """Return every token id with its exact bytes (`tables.VOCABULARY`, `n_rows` null)."""
        return vocabulary_of(self.tokenizer, size=self.n_vocab)

    def _point(self, name: str) -> Any:
        if name not in self._points:
            raise HookpointNotFoundError(
                pattern=name, where=self.name, known=tuple(self._hookpoints.infos)
            )
        return self._points[name]

    def _forward(self, tokens: Tensor, hooks: Sequence[tuple[Any, Function]]) -> None:
        tokens = tokens.to(self.device)
        if self._plain is not None and self._is_plain([point for point, _ in hooks]):
            self._plain.forward(tokens, hooks)
        else:
            self._through_bridge(tokens, hooks)

    def _through_bridge(self, tokens: Tensor, hooks: Sequence[tuple[Any, Function]]) -> None:
        with hooked(hooks):
            self._bridge(tokens, return_type=None, use_cache=False)

    def _is_plain(self, points: Sequence[Any]) -> bool:
        """Return whether Hugging Face's own pass gives these hookpoints; compare those not tried."""
        plain = self._plain
        if plain is None or not plain.knows(points):
            return False
        untried = plain.untried(points)
        if untried:
            tokens = tiny_tokens(self.n_vocab).to(self.device)
            mine, theirs = (
                _noted(forward, tokens, untried)
                for forward in (plain.forward, self._through_bridge)
            )
            for point in untried:
                key = id(point)
                plain.trusted[key] = key in mine and key in theirs and agree(mine[key], theirs[key])
        return plain.knows(points)


def _noted(
    forward: Callable[[Tensor, Sequence[tuple[Any, Function]]], None],
    tokens: Tensor,
    points: Sequence[Any],
) -> dict[int, Tensor]:
    """Return what passes by some hookpoints in a pass, by their identity."""
    seen: dict[int, Tensor] = {}

    def keep(key: int) -> Function:
        def note(value: Tensor) -> None:
            seen[key] = value.flatten(2).clone()
            if len(seen) == len(points):
                raise Enough

        return note

    forward(tokens, [(point, keep(id(point))) for point in points])
    return seen


def _patch(function: Callable[[Tensor], Tensor]) -> Function:
    def replace(value: Tensor) -> Tensor | None:
        given = value.flatten(2)
        found = function(given)
        # What is left as it is must not look changed: TransformerLens computes norms otherwise then.
        return None if found is given else found.to(value.dtype).reshape(value.shape)

    return replace
