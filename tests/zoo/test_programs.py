"""What TorchScript archives and OpenVINO descriptions say of themselves, read without their runtimes."""

from __future__ import annotations

import contextlib
import html
import io
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusiform.errors import SpecError, WeightsError
from fusiform.spec import ModelSpec
from fusiform.zoo.model import open_model
from fusiform.zoo.programs import is_openvino, is_torchscript, read_openvino_spec, read_torchscript_spec

SPEC = ModelSpec("mobilenet_v2", 1.0, ('a "quoted" & <tagged> one', "강아지", "it's"))
LABELS = st.lists(st.text(), min_size=1, max_size=4).map(tuple)


def torchscript(extra=None, *, compression=zipfile.ZIP_STORED):
    """An archive with code, and the extra file ``fusiform.spec`` if there is to be one."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("any name/code/__torch__.py", "class Network(Module):\n  pass\n" * 9, zipfile.ZIP_DEFLATED)
        if extra is not None:
            archive.writestr("any name/extra/fusiform.spec", extra, compression)
    return written.getvalue()


def openvino_description(spec):
    return (
        '<?xml version="1.0"?>\n<net name="Model0" version="11">\n\t<layers />\n\t<edges />\n\t<rt_info>\n'
        f'\t\t<fusiform>\n\t\t\t<spec value="{html.escape(spec)}" />\n\t\t</fusiform>\n\t</rt_info>\n</net>\n'
    ).encode()


@settings(deadline=None)
@given(LABELS)
def test_a_torchscript_spec_comes_back(labels):
    spec = SPEC.replace(labels=labels)
    data = torchscript(spec.to_json())
    assert is_torchscript(data)
    assert read_torchscript_spec(data, source="model.pt") == spec


def test_other_archives_are_not_torchscript():
    state_dict = io.BytesIO()
    with zipfile.ZipFile(state_dict, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
        archive.writestr("archive/extra/fusiform.spec", SPEC.to_json())
    assert not is_torchscript(state_dict.getvalue())
    for data in (b"", b"PK", b"PK\x03\x04", torchscript()[1:], torchscript()[:-1]):
        assert not is_torchscript(data)


def test_torchscript_without_a_description():
    with pytest.raises(SpecError, match=r"model\.pt: carries no description by fusiform"):
        read_torchscript_spec(torchscript(), source="model.pt")
    with pytest.raises(SpecError, match=r"model\.pt: the model's description is not JSON"):
        read_torchscript_spec(torchscript("[1, 2"), source="model.pt")


def test_a_description_that_would_grow_is_not_unpacked():
    bomb = torchscript(b" " * 10_000_000, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"model\.pt: damaged TorchScript file"):
        read_torchscript_spec(bomb, source="model.pt")


# Where, counted from the end or from the beginning, and what instead; the directory lies at the end.
CHANGES = st.lists(st.tuples(st.integers(-400, 80), st.sampled_from([0, 1, 8, 127, 128, 255])), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.integers(0, 30))
def test_damaged_archives_give_no_other_error(changes, cut):
    data = bytearray(torchscript(SPEC.to_json()))
    for place, value in changes:
        data[place] = value
    damaged = bytes(data[: len(data) - cut])
    is_torchscript(damaged)
    with contextlib.suppress(WeightsError, SpecError):
        assert read_torchscript_spec(damaged, source="model.pt") == SPEC


@settings(deadline=None)
@given(LABELS)
def test_an_openvino_spec_comes_back(labels):
    spec = SPEC.replace(labels=labels)
    data = openvino_description(spec.to_json())
    assert is_openvino(data)
    assert read_openvino_spec(data, source="model.xml") == spec


@settings(max_examples=30, deadline=None)
@given(LABELS)
def test_an_openvino_spec_comes_back_from_openvino_s_own_writer(labels):
    openvino = pytest.importorskip("openvino")
    from openvino import opset8

    picture = opset8.parameter([1], name="picture")
    model = openvino.Model([opset8.result(opset8.relu(picture))], [picture], "small")
    spec = SPEC.replace(labels=labels)
    model.set_rt_info(spec.to_json(), ["fusiform", "spec"])
    model.set_rt_info("a b c", ["model_info", "labels"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, path)
        data = path.read_bytes()
    assert is_openvino(data)
    assert read_openvino_spec(data, source="model.xml") == spec


def test_other_documents_are_not_openvino(tmp_path):
    for data in (b"", b"<?xml version='1.0'?><html></html>", b"<net", b"\x08\x08<net name", b"<svg><net ></net></svg>"):
        assert not is_openvino(data)
    path = tmp_path / "page.xml"
    path.write_bytes(b"<?xml version='1.0'?><html></html>")
    with pytest.raises(WeightsError, match=r"page\.xml: not a model file that fusiform knows"):
        open_model(path)


def test_openvino_without_a_description():
    with pytest.raises(SpecError, match=r"model\.xml: carries no description by fusiform"):
        read_openvino_spec(b'<?xml version="1.0"?><net name="a" version="11"></net>', source="model.xml")
    with pytest.raises(SpecError, match=r"model\.xml: the model's description is not JSON"):
        read_openvino_spec(openvino_description("{"), source="model.xml")


def test_entities_of_a_document_are_not_followed():
    spec = "&lol;" * 1000
    data = openvino_description("x").replace(b'value="x"', f'value="{spec}"'.encode())
    laughs = b'<!DOCTYPE net [<!ENTITY lol "lollollollollollollollollol">]>'
    with pytest.raises(SpecError, match="not JSON"):
        read_openvino_spec(data.replace(b"<net ", laughs + b"<net ", 1), source="model.xml")
