"""What came of mutants, kept in a file from which a later run goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tools.mutation.mutant import Mutant
from tools.mutation.trial import KILLED, SURVIVED, TIMED_OUT, UNREACHED, Verdict

EQUIVALENT = "equivalent"
_COLUMNS = (KILLED, TIMED_OUT, EQUIVALENT, SURVIVED, UNREACHED)


class Results:
    """``verdicts``: by the mutant's key. ``file``: where they are kept, None for nowhere."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        kept = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.exists() else {}
        self.verdicts = {key: Verdict(**verdict) for key, verdict in kept.items()}

    def keep(self) -> None:
        if self.file is None:
            return
        part = self.file.with_name(self.file.name + ".part")
        verdicts = {key: vars(verdict) for key, verdict in self.verdicts.items()}
        part.write_text(json.dumps(verdicts, indent=0, ensure_ascii=False), encoding="utf-8")
        part.replace(self.file)

    def table(self, mutants: Iterable[Mutant], reasons: dict[str, str]) -> str:
        """By room: how many of ``mutants`` there are, were tried, and what became of them."""
        all_: Counter[str] = Counter()
        counts: dict[str, Counter[str]] = {}
        for mutant in mutants:
            all_[mutant.room] += 1
            row = counts.setdefault(mutant.room, Counter())
            verdict = self.verdicts.get(mutant.key)
            if mutant.key in reasons:
                row[EQUIVALENT] += 1
            elif verdict is not None:
                row[verdict.outcome] += 1
        rows = [(room, all_[room], counts[room]) for room in sorted(counts)]
        rows.append(("all", sum(all_.values()), sum(counts.values(), Counter())))
        lines = [
            f"| room | mutants | tried | {' | '.join(_COLUMNS)} |",
            "|---|" + "---:|" * (2 + len(_COLUMNS)),
        ]
        for room, count, row in rows:
            cells = (count, row.total(), *(row[column] for column in _COLUMNS))
            lines.append(f"| {room} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
        return "\n".join(lines)
