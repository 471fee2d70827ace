"""Tables: reading, columns, targets, learning, and models that remember it all."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

import nnkernels as nnk
from nnkernels._tables import reading
from nnkernels._tables.learning import Settings, batch_size_for, learn, prepare, score, split
from nnkernels._tables.model import Model
from nnkernels._tables.reading import read_table
from nnkernels._tables.targets import tell_task

ROWS = 60


@pytest.fixture(params=["pandas", "no pandas"])
def reader(request, monkeypatch):
    if request.param == "no pandas":
        monkeypatch.setattr(reading, "_has_pandas", lambda: False)
    return request.param


@pytest.fixture
def write(tmp_path):
    def write(text, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def numbers(n_rows=ROWS, header="a,b,y"):
    """A table of three columns of numbers, y = a + 2 b."""
    a, b = np.random.default_rng(0).normal(size=(2, n_rows))
    lines = [f"{x!r},{z!r},{x + 2 * z!r}" for x, z in zip(a.tolist(), b.tolist(), strict=True)]
    return "\n".join([header, *lines]) + "\n"


def study_of(path, target, **settings):
    return prepare(read_table(path), target, Settings(device="numpy", **settings))


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,b\n1,2\n3,4\n", {"a": [1, 3], "b": [2, 4]}),
        ("\ufeffa,b\n1,2\n", {"a": [1], "b": [2]}),
        ("a, b\n 1, 2 \n\n3,4", {"a": [1, 3], "b": [2, 4]}),
        ('"a","b ""c"""\r\n"1",x\r\n2,"y, z"\r\n', {"a": [1, 2], 'b "c"': ["x", "y, z"]}),
        ("a,b\n1,\nNA,u\n", {"a": [1, None], "b": [None, "u"]}),
        ("a,b\n1,true\n2,FALSE\n", {"a": [1, 2], "b": ["True", "False"]}),
        ("a,b\n1,\n2,\n", {"a": [1, 2], "b": [None, None]}),
        ("a\n1\n2\n", {"a": [1, 2]}),
        ("a,b\n1e3,-0.5\n2,7\n", {"a": [1000, 2], "b": [-0.5, 7]}),
        ('a,b\n1,"two\nlines"\n2,z\n', {"a": [1, 2], "b": ["two\nlines", "z"]}),
        ("a,b\n2020_01,\uff12\n2020_02,\uff13\n", {"a": ["2020_01", "2020_02"], "b": ["\uff12", "\uff13"]}),
        (
            "a,b,c\n,,\n1,?,\n,2,NA\n\n,n/a,3\n",
            {"a": [None, 1, None, None], "b": [None, None, 2, None], "c": [None, None, None, 3]},
        ),
        ("\ufeffa,b\r\n,1\r\n\r\n2, \r\n, NULL", {"a": [None, 2, None], "b": [1, None, None]}),
        ("a\n1\n\nNA\n2\n", {"a": [1, None, 2]}),
        ('a,b\n1,\n"",2\n"3",NA\n', {"a": [1, None, 3], "b": [None, 2, None]}),
    ],
    ids=[
        "plain",
        "byte order mark",
        "spaces",
        "quotes",
        "missing",
        "booleans",
        "no values",
        "one column",
        "floats",
        "newline",
        "underscores and other digits",
        "missing at both ends",
        "missing with a byte order mark",
        "missing in one column",
        "missing and quoted",
    ],
)
def test_read(write, text, columns):
    table = read_table(write(text))
    read = {
        name: [None if cell is None or cell != cell else cell for cell in column.tolist()]  # noqa: PLR0124 - NaN
        for name, column in table.columns.items()
    }
    assert read == columns


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "vertical bar")])
def test_another_delimiter_is_found_and_said(write, delimiter, name):
    table = read_table(write(f"a{delimiter}b\n1{delimiter}2\n"))
    assert list(table.columns) == ["a", "b"]
    assert name in table.notes[0]
    assert "--delimiter" in table.notes[0]
    assert read_table(table.path, delimiter=delimiter).notes == []


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a,b\n", "a header and no rows"),
        ("1,2\n3,4\n", "first line must name the columns"),
        ("a,a\n1,2\n", "2 columns named 'a'"),
        ("a,b\n1,2\n3\n", "line 3 of .* has 1 cell, and the header has 2"),
        ("a,b\n1,2\nx\n", "line 3 of .* has 1 cell, and the header has 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 of .* has 3 cells, and the header has 2"),
        ("a,b\n1,2,\n3,4,\n", "line 2 of .* has 3 cells, and the header has 2"),
        ("a,b\n1,2\n\n3,4\noops,6\n", "line 5 of .*, column 'a': 'oops' is not a number"),
        ('a,b\n1,"x\ny"\n3,z\noops,z\n', "line 5 of .*, column 'a': 'oops' is not a number"),
        ("a,b\n1,2\ninf,2\n", "line 3 of .*, column 'a': inf is not a finite number"),
        ("a;b\n1,5;2,5\n2,5;1,5\n", "line 2 of .*, column 'a': '1,5' has a decimal comma; write decimal points"),
        ("a;b\nx;1\n0,125;1\n0,250;1\n", "line 3 of .*, column 'a': '0,125' has a decimal comma"),
        (
            'a,b\n1,999\n2,"1,000"\n3,"1,000,000"\n',
            "column 'b': '1,000' has thousands separators; write 1000 for 1,000",
        ),
        ("a;b\n1;-1,234.5\n", "column 'b': '-1,234.5' has thousands separators"),
        ("a;b\n1;1,234\n2;12\n", "thousands separator or a decimal comma; write 1234 or 1.234, and so in the whole"),
        ("a,b\n1,2\n3,4\n1_000,5\n", "line 4 of .*, column 'a': '1_000' is not a number"),
        ("a,b\n,2\n\n3\n", "line 4 of .* has 1 cell, and the header has 2"),
        ("a,b\n,2\n3,\n4,5,\n", "line 4 of .* has 3 cells, and the header has 2"),
        ("a,b\n,2\n3,\n\ninf,5\n", "line 5 of .*, column 'a': inf is not a finite number"),
        (b"a,b\n1,caf\xe9\n", "not UTF-8 text"),
    ],
    ids=[
        "nothing",
        "blank",
        "header only",
        "no header",
        "twice",
        "short",
        "short text",
        "long",
        "trailing",
        "text",
        "text after a newline",
        "infinite",
        "decimal comma",
        "decimal comma after text",
        "thousands",
        "thousands and a point",
        "thousands or decimal",
        "underscore",
        "short and missing",
        "long and missing",
        "infinite and missing",
        "latin-1",
    ],
)
def test_what_cannot_be_read_is_named(write, text, message):
    with pytest.raises(nnk.DataError, match=message):
        read_table(write(text))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_numpy_reads_numbers_with_missing_cells(write, monkeypatch, delimiter):
    monkeypatch.setattr(reading, "_read_cells", None)
    monkeypatch.setattr(reading, "_read_by_pandas", None)
    monkeypatch.setattr(reading, "PART", 100)  # many parts
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(200, 4))
    cells[40:][rng.random((160, 4)) < 0.5] = np.nan
    words = iter(rng.choice(["", " ", *reading.MISSING], cells.size))
    lines = [delimiter.join(next(words) if np.isnan(cell) else repr(cell) for cell in row) for row in cells.tolist()]
    table = read_table(write("\n".join([delimiter.join("abcd"), *lines])), delimiter=delimiter)
    np.testing.assert_array_equal(np.transpose([*table.columns.values()]), cells)


def test_a_folder_or_no_file_is_an_os_error(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(OSError, match=path.name):
            read_table(path)


def test_only_and_ignore(write):
    path = write("a,b,c\n1,2,3\noops,4,5\n6,7,8\n9,10,11\n")
    with pytest.raises(nnk.DataError, match="--ignore 'a'"):
        read_table(path)
    assert list(read_table(path, ignore=("a",)).columns) == ["b", "c"]
    assert read_table(path, only=("b",)).column("b").tolist() == [2, 4, 7, 10]
    with pytest.raises(nnk.DataError, match="no column 'd'"):
        read_table(path, ignore=("a", "d"))


def test_the_nearest_column_is_suggested(write):
    table = read_table(write("price,size,y\n1,2,3\n"))
    for wrong in ("prise", "Price"):
        with pytest.raises(nnk.DataError, match="Did you mean 'price'"):
            table.column(wrong)
    with pytest.raises(nnk.DataError, match="delimiter is perhaps not ';'"):
        read_table(table.path, delimiter=";").column("price")


# ---- columns and targets ---------------------------------------------------------------------------------------------


def test_inputs_are_standardized_by_the_training_rows_alone(write):
    study = study_of(write(numbers()), "y")
    train = study.x[study.parts.train]
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-6)
    assert abs(study.x.mean()) > 1e-4
    np.testing.assert_allclose([study.t[study.parts.train].mean(), study.t[study.parts.train].std()], [0, 1], atol=1e-6)


def test_missing_cells_and_categories(write):
    lines = numbers().splitlines()
    lines = [f"{line},{('color', 'red', 'blue', '')[min(i, 1 + i % 3)]}" for i, line in enumerate(lines)]
    lines[5] = lines[5].replace(lines[5].split(",")[0], "", 1)
    study = study_of(write("\n".join(lines)), "y")
    assert study.x.shape == (ROWS, 5)
    assert study.x[4, 0] == pytest.approx(0, abs=1e-6)  # the mean
    assert (study.x[:, 2:].sum(axis=1) == 1).all()
    assert any("column 'a': 1 of 60 cells are missing" in message for message in study.notes)
    assert any("category of its own" in message for message in study.notes)


@pytest.mark.parametrize(
    ("cells", "message"),
    [(["7"] * ROWS, "is constant"), (["u"] * ROWS, "is constant"), ([f"n{i}" for i in range(ROWS)], "as names have"),
     ([""] * ROWS, "no values"), (["1e308", "-1e308"] * (ROWS // 2), "beyond the reach")],
    ids=["number", "text", "names", "empty", "huge"],
)  # fmt: skip
def test_useless_columns_are_reported_and_dropped(write, cells, message):
    lines = [f"{line},{cell}" for line, cell in zip(numbers().splitlines(), ["extra", *cells], strict=True)]
    study = study_of(write("\n".join(lines)), "y")
    assert [column.name for column in study.model.columns] == ["a", "b"]
    assert any(message in said and "'extra'" in said for said in study.notes)


def test_many_categories_keep_the_most_frequent(write):
    rng = np.random.default_rng(0)
    lines = [f"c{rng.integers(150)},{value}" for value in rng.normal(size=3_000)]
    study = study_of(write("\n".join(["code,y", *lines])), "y")
    assert study.x.shape == (3_000, 100)
    assert any("150 categories" in message for message in study.notes)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["yes", "no"], "classification"),
        (["True", "False"], "classification"),
        ([0, 1], "classification"),
        ([3, 4, 5], "classification"),
        ([0.5, 1.5], "regression"),
        (list(range(20)), "regression"),
        (list(np.random.default_rng(0).normal(size=60)), "regression"),
    ],
    ids=["text", "bool", "0 and 1", "few", "halves", "many", "real"],
)
def test_the_task_is_told_from_the_target(write, values, task):
    lines = ["a,y", *(f"{i * 0.37},{values[i % len(values)]}" for i in range(ROWS))]
    table = read_table(write("\n".join(lines)))
    assert tell_task(table, "y")[0] == task
    study = prepare(table, "y", Settings(device="numpy"))
    assert study.model.target.task == task


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,y\n" + "1.5,2\n" * 1, {}, "has 1 row; "),
        ("a,y\n" + "".join(f"{i}.5,7\n" for i in range(ROWS)), {}, "target 'y' is constant"),
        ("a,y\n" + "".join(f"{i}.5,n{i}\n" for i in range(ROWS)), {}, "60 classes in 60 rows"),
        ("a,y\n" + "".join(f"{i}.5,{'uv'[i % 2]}\n" for i in range(ROWS)), {"task": "regression"}, "is text"),
        ("a,y\n" + "".join(f"7,{i}.5\n" for i in range(ROWS)), {}, "no column to learn 'y' from.*constant"),
        ("y\n" + "".join(f"{i}.5\n" for i in range(ROWS)), {}, "no column to learn 'y' from"),
        (numbers(), {"loss": "binary_cross_entropy"}, "is for classification"),
        (numbers(), {"loss": "poisson"}, "below 0 in line"),
        ("a,y\n" + "".join(f"{i},\n" for i in range(ROWS)) + "1,2\n3,4\n", {}, "missing in all but 2 rows"),
        ("a,y\n" + "".join(f"{i},{'uvw'[i % 3]}\n" for i in range(ROWS)), {"loss": "binary_cross_entropy"}, "has 3"),
        ("a,y\n" + "".join(f"{i},{i - 29.5}e200\n" for i in range(ROWS)), {}, "'y' varies beyond .* another unit"),
        ("a,y\n" + "".join(f"{i},{i - 29.5}e-200\n" for i in range(ROWS)), {}, "'y' varies beyond .* another unit"),
    ],
    ids=["one row", "constant target", "identifier", "text", "constant input", "no input", "loss", "poisson",
         "no target", "binary", "huge target", "tiny target"],
)  # fmt: skip
def test_what_cannot_be_learned_is_named(write, text, settings, message):
    with pytest.raises(nnk.DataError, match=message):
        study_of(write(text), "y", **settings)


@pytest.mark.parametrize("name", ["a", "y"])
def test_a_test_row_out_of_proportion_is_named(write, name):
    row = int(split(ROWS, None, seed=0).test[0])
    lines = numbers().splitlines()
    cells = lines[row + 1].split(",")
    cells["aby".index(name)] = "1e60"
    lines[row + 1] = ",".join(cells)
    with pytest.raises(nnk.DataError, match=rf"line {row + 2} of .*, column '{name}': 1e\+60 is out of all proportion"):
        study_of(write("\n".join(lines)), "y")


def test_splits_cover_all_rows_once_and_keep_the_share_of_classes():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    parts = split(100, labels, seed=3)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert sorted(together) == list(range(100))
    assert np.bincount(labels[parts.test]).tolist() == [14, 4, 2]
    assert (split(100, labels, seed=3).test == parts.test).all()
    assert set(split(100, labels, seed=4).test) != set(parts.test)


def test_batch_sizes_are_powers_of_2_from_16_to_256():
    assert [batch_size_for(n) for n in (1, 100, 1_000, 10_000, 10**6)] == [16, 16, 32, 256, 256]


# ---- learning --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("data"), {}
    for load in (load_diabetes, load_breast_cancer, load_iris):
        paths[load.__name__] = folder / f"{load.__name__}.csv"
        load(as_frame=True).frame.to_csv(paths[load.__name__], index=False)
    return paths


@pytest.mark.parametrize("device", ["numpy", "numba"])
@pytest.mark.parametrize(
    ("name", "metric", "least"),
    [("load_diabetes", "R^2", 0.43), ("load_breast_cancer", "accuracy", 0.95), ("load_iris", "accuracy", 0.93)],
    ids=["diabetes", "breast_cancer", "iris"],
)
def test_the_defaults_are_good_over_20_splits(data_sets, name, metric, least, device):
    table, scores = read_table(data_sets[name]), []
    for seed in range(20):
        settings = Settings(seed=seed, device=device)
        study = prepare(table, "target", settings)
        learn(study, settings)
        scores.append(score(study))
    assert np.mean([one.network[metric] for one in scores]) >= least
    assert all(one.network[metric] > one.baseline[metric] for one in scores)


def test_the_best_weights_are_kept(data_sets):
    settings = Settings(device="numpy", patience=5)
    study = prepare(read_table(data_sets["load_diabetes"]), "target", settings)
    history, best_epoch = learn(study, settings)
    assert len(history.steps) == best_epoch + 5
    validation = study.x[study.parts.validation], study.t[study.parts.validation]
    kept = study.model.network.evaluate(*validation, loss="mean_squared_error")
    assert kept == pytest.approx(history.validation_loss.min())


def test_counts_are_learned_through_their_logarithm(write):
    rng = np.random.default_rng(0)
    a = rng.uniform(0, 3, 400)
    lines = ["a,y", *(f"{x},{n}" for x, n in zip(a, rng.poisson(np.exp(a)), strict=True))]
    settings = Settings(device="numpy", loss="poisson", task="regression")
    study = prepare(read_table(write("\n".join(lines))), "y", settings)
    learn(study, settings)
    scores = score(study)
    assert scores.network["R^2"] > 0.5
    assert (study.model.predict(read_table(write("a\n0\n3\n"))).values > 0).all()


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", "numba"])
def test_a_model_file_remembers_columns_and_target(data_sets, tmp_path, write, device):
    settings = Settings(device=device, epochs=5)
    table = read_table(data_sets["load_iris"])
    study = prepare(table, "target", settings)
    learn(study, settings)
    study.model.save(tmp_path / "iris.safetensors")
    model = Model.load(tmp_path / "iris.safetensors", device=device)
    assert (model.columns, model.target) == (study.model.columns, study.model.target)
    expected = study.model.predict(table)
    text = data_sets["load_iris"].read_text().splitlines()
    turned = "\n".join(",".join([*line.split(",")[-2::-1], "extra"]) for line in text)
    predicted = model.predict(read_table(write(turned)))
    np.testing.assert_array_equal(predicted.probabilities, expected.probabilities)
    np.testing.assert_allclose(predicted.probabilities.sum(axis=1), 1, rtol=1e-6)
    assert predicted.classes == ("0", "1", "2")
    assert set(predicted.values) <= set(predicted.classes)


def test_predicting_reports_what_training_has_not_seen(write):
    lines = ["a,c,y", *(f"{i * 0.1},{'uvw'[i % 3]},{i}" for i in range(ROWS))]
    model = study_of(write("\n".join(lines)), "y").model
    table = read_table(write("c,a\nu,1\nz,\n,3\n"))
    assert model.predict(table).values.shape == (3,)
    assert any("unknown from training ('z')" in message for message in table.notes)
    assert any("column 'c': 1 cells are missing, as none was" in message for message in table.notes)
    assert any("column 'a': 1 of 3 cells are missing" in message for message in table.notes)
    with pytest.raises(nnk.DataError, match="no column 'c'"):
        model.predict(read_table(write("a\n1\n")))
    with pytest.raises(nnk.DataError, match=r"line 2 of .* column 'a': 'x' is not a number"):
        model.predict(read_table(write("a,c\nx,u\n")))


def test_a_category_of_digits_is_found_in_a_file_of_digits_alone(write):
    lines = ["c,y", *(f"{('1', 'x', 'z')[i % 3]},{i}.5" for i in range(ROWS))]
    model = study_of(write("\n".join(lines)), "y").model
    table = read_table(write("c\n1\n"))
    model.predict(table)
    assert table.notes == []


def test_a_network_alone_is_no_model_of_a_table_but_a_model_is_a_network(tmp_path, write):
    path = tmp_path / "net.safetensors"
    nnk.Sequential(nnk.Dense(2, 1), device="numpy").save(path)
    with pytest.raises(nnk.ModelFileError, match="a network alone"):
        Model.load(path)
    model = study_of(write(numbers()), "y").model
    model.save(path)
    x = np.zeros((1, 2))
    assert nnk.load(path, device="numpy").predict(x) == model.network.predict(x)


@pytest.mark.parametrize(
    "damage",
    [
        {"columns": []},
        {"columns": [{"kind": "number", "name": "a"}], "target": {}},
        {"columns": [{"kind": "nothing"}], "target": {}},
        {"columns": [{"kind": "number", "name": "a", "mean": 0.0, "std": 1.0}],
         "target": {"kind": "regression", "name": "y", "mean": 0.0, "std": 1.0, "log": False}},
    ],
    ids=["no target", "no mean", "unknown kind", "too few inputs"],
)  # fmt: skip
def test_a_damaged_preprocessing_is_noticed(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    net = nnk.Sequential(nnk.Dense(2, 1), device="numpy")
    net.preprocessing = damage
    net.save(path)
    with pytest.raises(nnk.ModelFileError, match="is corrupt: its preprocessing"):
        Model.load(path, device="numpy")
