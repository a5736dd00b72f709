// Prints the price of each stock that is named on the command line, with Node.js 18 or newer and no packages.
// Reads KIS_BASE_URL, KIS_ACCESS_TOKEN, KIS_APP_KEY and KIS_APP_SECRET. other-languages.yml runs it.
const { KIS_BASE_URL, KIS_ACCESS_TOKEN, KIS_APP_KEY, KIS_APP_SECRET } = process.env;

for (const stock of process.argv.slice(2)) {
  const query = new URLSearchParams({ FID_COND_MRKT_DIV_CODE: "J", FID_INPUT_ISCD: stock });
  const response = await fetch(`${KIS_BASE_URL}/uapi/domestic-stock/v1/quotations/inquire-price?${query}`, {
    headers: {
      authorization: `Bearer ${KIS_ACCESS_TOKEN}`,
      appkey: KIS_APP_KEY,
      appsecret: KIS_APP_SECRET,
      tr_id: "FHKST01010100",
      custtype: "P",
    },
    signal: AbortSignal.timeout(10_000),
  });
  const answer = await response.json();
  if (answer.rt_cd !== "0") {
    throw new Error(`KIS refused: ${answer.msg_cd} ${answer.msg1}`);
  }
  console.log(`${stock}: ${answer.output.stck_prpr}`);
}
