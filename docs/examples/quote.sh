# Prints the price of the stock $1, with curl. In most of the examples quote.sh is a placeholder for your program.
# Reads KIS_BASE_URL, KIS_ACCESS_TOKEN, KIS_APP_KEY and KIS_APP_SECRET.
set -eu

# curl reads the headers from standard input, because every user of a machine can read command lines.
answer=$(
  curl --config - --silent --show-error --max-time 10 --get \
    --data FID_COND_MRKT_DIV_CODE=J --data "FID_INPUT_ISCD=$1" \
    "$KIS_BASE_URL/uapi/domestic-stock/v1/quotations/inquire-price" << END
header = "authorization: Bearer $KIS_ACCESS_TOKEN"
header = "appkey: $KIS_APP_KEY"
header = "appsecret: $KIS_APP_SECRET"
header = "tr_id: FHKST01010100"
header = "custtype: P"
END
)
price=$(printf '%s' "$answer" | sed -n 's/.*"stck_prpr": *"\([0-9]*\)".*/\1/p')
if [ -z "$price" ]; then
  echo "KIS refused: $answer" >&2
  exit 1
fi
echo "$1: $price"
