"""Prints the prices of stocks, with KISClient: no line of this program handles tokens. client.yml runs it.

Reads SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY, and the other variables that the README names.
"""

import sys

from kis_token import KISClient


def price_of(client: KISClient, stock: str) -> str:
    """Return the price in won. Raises RuntimeError if KIS refuses the call."""
    answer = client.request(
        "GET",
        "/uapi/domestic-stock/v1/quotations/inquire-price",
        tr_id="FHKST01010100",
        params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": stock},
    ).json()
    if answer["rt_cd"] != "0":
        raise RuntimeError(f"KIS refused: {answer['msg_cd']} {answer['msg1']}")
    return str(answer["output"]["stck_prpr"])


if __name__ == "__main__":
    with KISClient.from_env() as kis:
        for name in sys.argv[1:]:
            print(f"{name}: {price_of(kis, name)}")
