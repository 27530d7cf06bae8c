"""The patient of the tests: words that nothing else writes, so that a search may look for them."""

from typing import Final

NAME: Final = "ZQNAME^ZQGIVEN"
ID: Final = "ZQPATIENT7"
BIRTH_DATE: Final = "19780207"  # 45 years before the studies, and a day that no clock shows
ACCESSION_NUMBER: Final = "ZQACCESSION5"
