"""Libraries of others that a site brings along, so that it needs no network: DataTables and plotly.js.

They are copied out of the installed Python packages that ship them, with their licences.
"""

from __future__ import annotations

import json
import re
import shutil
from importlib import metadata
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.optional import require

_NOTICE = re.compile(r"/\*! Bundled license information:\n.*?\n\*/", re.DOTALL)
_BUNDLE = """// DataTables, from itables {version}, as text: a page on disk cannot import a module by its address.
window.msabenchBundle = {text};
"""


def copy_libraries(assets: Path, licences: Path) -> None:
    """Copy DataTables and plotly.js into a site.

    Args:
        assets: Gets ``datatables.js``, ``datatables.css`` and ``plotly.min.js``. The first sets
            ``window.msabenchBundle`` to the source of an ES module, from which ``site.js`` imports it.
        licences: Gets the licences of the packages and the notices of what is bundled in them.

    Raises:
        MSABenchError: A package is not installed, or does not hold what is expected.
    """
    tables, plots = (Path(str(require(name).__file__)).parent for name in ("itables", "plotly"))
    bundle = _existing(tables / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    version = metadata.version("itables")
    (assets / "datatables.js").write_text(_BUNDLE.format(version=version, text=json.dumps(bundle)), encoding="utf-8")
    shutil.copyfile(_existing(tables / "html" / "dt_bundle.css"), assets / "datatables.css")
    plotly = _existing(plots / "package_data" / "plotly.min.js")
    shutil.copyfile(plotly, assets / "plotly.min.js")
    notices = {"itables": bundle, "plotly": plotly.read_text(encoding="utf-8")}
    for package, source in notices.items():
        header = source[: source.find("*/") + 2] if source.startswith("/*") else ""
        parts = [header, *_NOTICE.findall(source), *_licences_of(package)]
        text = "\n\n".join(part.strip() for part in parts if part)
        (licences / f"{package}.txt").write_text(f"{package} {metadata.version(package)}\n\n{text}\n", encoding="utf-8")


def licence_texts(licences: Path) -> list[tuple[str, str]]:
    """Name and text of the licences that ``copy_libraries`` wrote."""
    return [(path.stem, path.read_text(encoding="utf-8")) for path in sorted(licences.glob("*.txt"))]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MSABenchError(
            f"{path.name} is not where its package had it ({path}); install the versions of constraints.txt instead"
        )
    return path


def _licences_of(package: str) -> list[str]:
    files = metadata.files(package) or []
    found = [file for file in files if ".dist-info" in str(file) and "licen" in file.name.lower()]
    if not found:
        raise MSABenchError(f"the package {package} brings no licence along, so its script cannot be passed on")
    return [file.read_text(encoding="utf-8") for file in found]
