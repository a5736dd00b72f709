"""Prints the prices of stocks, all at once, with httpx and KISAuth: no line of this program handles tokens.

Reads SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY, and the other variables that the README names.
"""

import asyncio
import sys

import httpx

from kis_token import KISAuth


async def price_of(client: httpx.AsyncClient, stock: str) -> str:
    """Return the price in won. Raises RuntimeError if KIS refuses the call."""
    response = await client.get(
        "/uapi/domestic-stock/v1/quotations/inquire-price",
        params={"FID_COND_MRKT_DIV_CODE": "J", "FID_INPUT_ISCD": stock},
        headers={"tr_id": "FHKST01010100"},
    )
    answer = response.json()
    if answer["rt_cd"] != "0":
        raise RuntimeError(f"KIS refused: {answer['msg_cd']} {answer['msg1']}")
    return str(answer["output"]["stck_prpr"])


async def main(stocks: list[str]) -> None:
    """Print the price of each stock."""
    auth = KISAuth.from_env()
    async with httpx.AsyncClient(auth=auth, base_url=auth.base_url) as client:
        prices = await asyncio.gather(*(price_of(client, stock) for stock in stocks))
    for stock, price in zip(stocks, prices, strict=True):
        print(f"{stock}: {price}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
