"""Prints the price of each stock that the command line names.

quote.yml runs this program, which uses the package ``requests``. The program reads KIS_BASE_URL, KIS_ACCESS_TOKEN,
KIS_APP_KEY and KIS_APP_SECRET.
"""

import os
import sys

import requests


def price_of(stock: str) -> str:
    """Return the price in won. Raises RuntimeError if KIS refuses the call."""
    response = requests.get(
        os.environ["KIS_BASE_URL"] + "/uapi/domestic-stock/v1/quotations/inquire-price",
        params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": stock},
        headers={
            "authorization": "Bearer " + os.environ["KIS_ACCESS_TOKEN"],
            "appkey": os.environ["KIS_APP_KEY"],
            "appsecret": os.environ["KIS_APP_SECRET"],
            "tr_id": "FHKST01010100",
            "custtype": "P",
        },
        timeout=10,
    )
    answer = response.json()
    if answer["rt_cd"] != "0":  # check the body: if KIS refuses a call, the status is 500 or even 200
        raise RuntimeError(f"KIS refused: {answer['msg_cd']} {answer['msg1']}")
    return str(answer["output"]["stck_prpr"])


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name}: {price_of(name)}")
