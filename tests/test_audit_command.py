"""`unet-jax audit`: its exit status, its lines, and its page, in a browser where one is installed."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from unet_jax.cli.main import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def disk(row, column, radius, side=48):
    y, x = np.mgrid[:side, :side]
    return ((y - row) ** 2 + (x - column) ** 2 <= radius * abs(radius)).astype(np.uint8) * np.uint8(255)


def write_data(root, *, channels=3, side=48):
    """Ten images in train/ and Valid/ and test/; class "b & <i>$x$" lies inside cell, and is not in Valid/."""
    rng = np.random.default_rng(0)
    for i in range(10):
        split = "train" if i < 6 else "Valid" if i < 8 else "test"
        image = rng.integers(0, 250, (side, side, channels), dtype=np.uint8)
        save(root / split / "images" / f"p{i // 2}_{i}.png", image[..., 0] if channels == 1 else image)
        save(root / split / "masks" / "cell" / f"p{i // 2}_{i}.png", disk(20, 15 + i, 9, side))
        inner = disk(20, 15 + i, 4 if split != "Valid" else -1, side)
        save(root / split / "masks" / "b & <i>$x$" / f"p{i // 2}_{i}.png", inner)


def audit(capsys, root, *options, status=0):
    """Run the command; return its exit status's output and the page."""
    page = root / "page" / "audit.html"
    args = ["audit", "--data.root", str(root), "--data.image-size", "16", "--page", str(page), *options]
    if status:
        with pytest.raises(SystemExit) as ended:
            main(args)
        assert ended.value.code == status
    else:
        main(args)
    captured = capsys.readouterr()
    return captured.out, captured.err, page.read_text() if page.exists() else ""


class Page(html.parser.HTMLParser):
    """Tags that are not closed, cells of the tables by id, texts, and addresses that the page refers to."""

    VOID = frozenset(("meta", "img", "link", "br"))

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.texts, self.addresses, self._table = [], {}, [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [value for name, value in attrs.items() if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(attrs.get("id"), [])
        if tag == "tr" and self._table is not None:
            self._table.append([])
        if tag in ("td", "th") and self._table is not None:
            self._table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self._table = None

    def handle_data(self, data):
        self.texts.append(data)
        if self._table and self._table[-1] and self.open[-1] in ("td", "th"):
            self._table[-1][-1] += data


def test_a_data_set_that_can_be_trained_on(tmp_path, capsys):
    write_data(tmp_path)
    out, err, text = audit(capsys, tmp_path)
    assert out.splitlines()[0] == "data: 6 train, 2 val, 2 test; 48x48 pixels"
    *_, verdict, following = out.splitlines()
    assert verdict == "can be trained on"
    assert following == f"next: unet-jax train default --data.root {tmp_path} --data.image-size 16 --out RUN"
    assert "WARNING: class b & <i>$x$ has no pixel in val" in out
    assert err == ""
    page = Page(text)
    assert page.open == []
    assert [row[:4] for row in page.tables["classes"][1:]] == [
        [name, split, str(count), str(count if name == "cell" or split != "val" else 0)]
        for name in ("b & <i>$x$", "cell")
        for split, count in (("train", 6), ("val", 2), ("test", 2))
    ]
    assert page.tables["sizes"][1:] == [["48x48", "10"]]
    inner, outer = (sum(int((disk(20, 15 + i, r) > 0).sum()) for i in (*range(6),)) for r in (4, 9))
    outer += sum(int((disk(20, 15 + i, 9) > 0).sum()) for i in (6, 7))
    assert page.tables["overlaps"][1][1:] == ["", "100.0%"]
    assert page.tables["overlaps"][2][1:] == [f"{inner / outer:.1%}", ""]
    assert page.addresses and all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"https?://|<script", text)


def test_what_is_wrong_is_on_the_page_by_name_and_in_the_status(tmp_path, capsys):
    write_data(tmp_path)
    shutil.copy(tmp_path / "train" / "images" / "p0_0.png", tmp_path / "test" / "images" / "p4_8.png")  # a leak
    save(tmp_path / "train" / "masks" / "cell" / "p0_1.png", disk(20, 20, 5, side=47))
    (tmp_path / "train" / "images" / "extra.xyz").write_bytes(b"")
    save(tmp_path / "train" / "masks" / "cell" / "extra.png", disk(20, 20, 5))
    out, err, text = audit(capsys, tmp_path, "--data.group-key", "^p([0-9]+)", status=1)
    assert "cannot be trained on, for the reasons above" in out
    words = re.sub(r"\s+", " ", "".join(Page(text).texts))
    for found in (err, words):
        assert "masks/cell/p0_1.png: is 47x47 pixels" in found
        assert "extra.xyz is there, but .xyz is not read" in found
    for found in (out, words):
        assert "mages with the same pixels are in different splits: p0_0 (train), p4_8 (test)" in found
        assert "1 .xyz" in found
    assert "This data set cannot be trained on yet." in words
    out, _, text = audit(capsys, tmp_path, "--data.on-bad-sample", "skip")
    assert "This data set can be trained on." in "".join(Page(text).texts)
    assert "left out: " in out and "2 left out in all" in out


def test_every_refused_file_is_on_the_page(tmp_path, capsys):
    write_data(tmp_path)
    for i in range(25):
        save(tmp_path / "train" / "masks" / "cell" / f"lonely{i:02d}.png", disk(5, 5, 2))
    _, err, text = audit(capsys, tmp_path, status=1)
    assert "and 15 more" in err
    assert all(f"lonely{i:02d}.png" in text for i in range(25))


def test_groups_in_several_splits_are_named(tmp_path, capsys):
    write_data(tmp_path)
    out, _, text = audit(capsys, tmp_path, "--data.group-key", "^(p[0-9])")
    assert "groups of data.group_key" not in out and "is in different splits" in text
    out, _, text = audit(capsys, tmp_path, "--data.group-key", "^(p)")
    assert "WARNING: 1 groups of data.group_key are in different splits: p (train and val and test)" in out
    assert "<li>p: train, val, test</li>" in text


@pytest.mark.parametrize("channels", [1, 3])
def test_values_of_each_channel_are_drawn(tmp_path, capsys, channels):
    """The share of black is that of the files; the curve has a step for each of the 256 bins."""
    write_data(tmp_path, channels=channels)
    _, _, text = audit(capsys, tmp_path)
    curves = re.findall(r'<polygon points="([^"]*)"', text)
    assert len(curves) == channels
    assert all(len(points.split()) == 2 * 256 + 2 for points in curves)
    images = [np.asarray(Image.open(path)) for path in sorted(tmp_path.glob("*/images/*.png"))]
    black = [f"{np.mean([im.reshape(48, 48, -1)[..., c] == 0 for im in images]):.2%}" for c in range(channels)]
    shown = re.findall(r"([\d.]+)% black", text)
    np.testing.assert_allclose([float(b) for b in shown], [float(b.strip("%")) for b in black], atol=0.006)


def test_a_layout_that_is_not_understood_is_one_line_and_no_page(tmp_path, capsys):
    write_data(tmp_path)
    (tmp_path / "test").rename(tmp_path / "holdout")
    _, err, text = audit(capsys, tmp_path, status=2)
    assert "holdout/ holds images/, but is no split" in err and len(err.splitlines()) == 1
    assert text == ""


def test_settings_that_do_nothing_and_unknown_ones_are_refused(tmp_path, capsys):
    write_data(tmp_path)
    _, err, _ = audit(capsys, tmp_path, "--data.intensity-limits", "0", "100", status=2)
    assert "data.intensity_limits is (0.0, 100.0), but data.intensity 'auto' does not use it" in err


MEASURE = """<!doctype html><meta charset="utf-8"><body><iframe id="page" style="border:0"></iframe>
<pre id="result"></pre>
<script>
const text = JSON.parse(document.getElementById("source").textContent), frame = document.getElementById("page");
const results = {};
const measure = (widths) => {
  if (!widths.length) {
    document.getElementById("result").textContent = "RESULT" + JSON.stringify(results) + "END";
    return;
  }
  frame.style.width = widths[0] + "px"; frame.style.height = "800px";
  frame.onload = () => {
    const page = frame.contentDocument, box = (e) => e.getBoundingClientRect();
    results[widths[0]] = {
      width: page.documentElement.scrollWidth,
      images: [...page.images].map((i) => [i.naturalWidth, box(i).width]),
      curves: [...page.querySelectorAll("svg polygon")].map((p) => p.getBoundingClientRect().height),
      outside: [...page.querySelectorAll("h1, h2, p, li, figure, .problem")].filter((e) => box(e).right > widths[0] + 1)
        .map((e) => e.textContent),
      small: [...page.querySelectorAll("th")].filter((e) => box(e).height > 120).map((e) => e.textContent),
      title: page.title,
    };
    measure(widths.slice(1));
  };
  frame.srcdoc = text;
};
measure([390, 1280]);
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed; the other tests read the page's structure")
def test_the_page_fits_a_phone_and_a_desk_in_chromium(tmp_path, capsys):
    write_data(tmp_path)
    save(tmp_path / "train" / "masks" / "cell" / f"{'long_name_' * 20}.png", disk(5, 5, 2))
    _, _, text = audit(capsys, tmp_path, status=1)
    source = json.dumps(text).replace("</", "<\\/")
    outer = MEASURE.replace("<script>", f'<script type="application/json" id="source">{source}</script><script>', 1)
    (tmp_path / "measure.html").write_text(outer)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/measure.html"], capture_output=True, text=True, timeout=120)
    match = re.search(r"RESULT(.*)END</pre>", done.stdout)
    assert match, done.stderr[-2000:]
    results = json.loads(html.unescape(match[1]))
    for width in ("390", "1280"):
        page = results[width]
        assert page["width"] <= int(width), "the page is wider than the window"
        assert page["outside"] == [] and page["small"] == []
        assert len(page["images"]) == 2 * 8 and all(natural == 48 and shown > 60 for natural, shown in page["images"])
        assert len(page["curves"]) == 3 and all(height > 50 for height in page["curves"])
        assert page["title"] == f"Audit of {tmp_path}"
