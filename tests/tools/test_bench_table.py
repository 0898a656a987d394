import json
from pathlib import Path

from tools.bench.table import main


def test_result_has_all_measurements(tmp_path: Path) -> None:
    main(["--rows", "300", "--out", str(tmp_path / "table.json")])
    (result,) = json.loads((tmp_path / "table.json").read_text())
    assert result["rows"] == 300 and result["audio_cut_us"] > 0
    assert result["table_cut_us"] > 0 and result["json_cut_us"] > 0
