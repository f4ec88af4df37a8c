#!/usr/bin/env bash
# Embeds and scores two rows: bash client.sh MODEL [HOST:PORT]
set -euo pipefail
model=$1 server=${2:-127.0.0.1:8001} errors=$(dirname "$0")/../errors.proto

# call METHOD: its request on stdin, its answer on stdout, both as JSON.
# TLS: https:// and --cacert ca.pem in place of http:// and --http2-prior-knowledge. A token: -H "Authorization: Bearer
# $token" --reflect-header '*'. grpcurl: -plaintext -max-time 30 -d @ "$server" "hourglass.v1.Autoencoder/$1"
call() {
  local answer
  answer=$(buf curl --http2-prior-knowledge --protocol grpc --timeout 30s -d @- \
    "http://$server/hourglass.v1.Autoencoder/$1" 2>&1) || { failed "$answer" >&2; return 1; }
  echo "$answer"
}

# A failed call's reason and field.
failed() {
  local info
  info=$(jq -rj '.details[] | select(.type == "google.rpc.ErrorInfo").value | @base64d' <<< "$1" 2> /dev/null |
    buf convert "$errors" --type google.rpc.ErrorInfo --from -#format=binpb) || { echo "$1"; return; }
  jq -r --argjson info "$info" '"\($info.reason) \($info.metadata.field // ""): \(.message)"' <<< "$1"
}

# Raw bytes as numbers, so many a line; as they are, on a little-endian machine.
floats() { base64 -d | od -An -v -t f4 -w$((4 * $1)) | awk '{ for (i = 1; i <= NF && i <= 3; i++) printf "%.4f ", $i; print "" }'; }
bools() { base64 -d | od -An -v -t u1 -w1 | awk '{ print $1 ? "anomaly" : "normal" }'; }

shape=$(jq -n '{$model}' --arg model "$model" | call GetModel | jq -c '[.model.rowShape[] | tonumber]')
size=$(jq 'reduce .[] as $n (1; . * $n)' <<< "$shape")
# A row of zeros and a row of ones; 1 is the bytes 00 00 80 3f.
rows=$({ head -c $((4 * size)) /dev/zero; printf '\0\0\200\077%.0s' $(seq "$size"); } | base64 | tr -d '\n' |
  jq -R --arg model "$model" --argjson shape "$shape" \
    '{$model, tensor: {dataType: "DATA_TYPE_FLOAT32", shape: ([2] + $shape), data: .}}')
embedded=$(call Embed <<< "$rows")
scored=$(call Score <<< "$rows")

echo "embedding_space_id $(jq -r .model.embeddingSpaceId <<< "$embedded")"
echo "embedding $(jq -r '.embedding.shape | join(" ")' <<< "$embedded")"
paste -d '\0' \
  <(jq -r .embedding.data <<< "$embedded" | floats "$(jq -r '.embedding.shape[1]' <<< "$embedded")") \
  <(jq -r .score.data <<< "$scored" | floats 1 | sed 's/^/score /') \
  <(jq -r .isAnomaly.data <<< "$scored" | bools)
