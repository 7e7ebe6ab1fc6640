"""Pictures of the other sizes that an export's graphs take, compared with those that diffusers draws."""

from __future__ import annotations

from export.checks.gates import MOST_STEPS
from export.checks.measure import Network, psnr_db
from export.checks.pipeline import drawn_by_diffusers
from export.checks.reference import pictures
from export.source import Source
from runtime.errors import UserError

SEED = 0


class OtherSizes:
    """One picture of each size but the first, by `StableDiffusionPipeline.__call__` with height and width."""

    def __init__(self, source: Source) -> None:
        self.prompt = source.prompts.compared[0]
        self.cases = [source.at(size) for size in source.sizes[1:]]
        self.expected = [drawn_by_diffusers(case, [self.prompt], [SEED])[0] for case in self.cases]

    def compare(self, network: Network, min_psnr_db: float) -> dict[str, float]:
        """PSNR by size, as WIDTHxHEIGHT. Raises UserError when one is below `min_psnr_db`."""
        found = {}
        for case, expected in zip(self.cases, self.expected, strict=True):
            ids, draws = case.encode([self.prompt]), case.draws([SEED], MOST_STEPS)
            height, width = case.image_size
            psnr = psnr_db(expected, pictures(network, case, ids, draws), peak=1.0)
            if psnr < min_psnr_db:
                raise UserError(
                    f"a one-step picture of {width}x{height} is {psnr:.1f} dB from PyTorch's, below the threshold of "
                    f"{min_psnr_db:g} dB; nothing was written (--min-psnr-db sets another threshold)"
                )
            found[f"{width}x{height}"] = round(psnr, 2)
        return found
