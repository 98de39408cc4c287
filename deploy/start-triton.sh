#!/bin/sh
# Starts tritonserver with the arguments given, and with its administrative APIs behind the key in a file. Without a key
# nobody can use them: it is drawn at random. Triton takes the key on its command line only. Where OTLP_TRACES_URL is set,
# requests that come with a sampled trace continue it, and the spans go there.
set -eu
key_file=${ADMIN_KEY_FILE:-/run/secrets/admin_key}
key=
if [ -e "$key_file" ] && ! key=$(cat "$key_file"); then
  echo "the key in $key_file must be readable for user $(id -u)" >&2
  exit 2
fi
[ -n "$key" ] || key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
case $key in
  *[!A-Za-z0-9]*)
    echo "the key in $key_file must be of letters and digits only: make one with openssl rand -hex 16" >&2
    exit 2
    ;;
esac
# With shared memory a client reaches the backends' memory, with logging and trace the server's files; to load a model
# is to run its code.
apis=shared-memory,logging,trace
case " $* " in
  *model-control-mode[=\ ]explicit*) apis=$apis,model-repository ;;
esac
if [ -n "${OTLP_TRACES_URL:-}" ]; then
  # Triton begins no traces of its own: which requests are traced is for the callers to say.
  set -- "$@" --trace-config=mode=opentelemetry --trace-config=level=TIMESTAMPS --trace-config=rate=0 \
    "--trace-config=opentelemetry,url=$OTLP_TRACES_URL" --trace-config=opentelemetry,resource=service.name=triton
fi
# ONNX Runtime reports which models run where to its maker, unless it finds this when it starts.
export ORT_DISABLE_TELEMETRY="${ORT_DISABLE_TELEMETRY:-1}"
exec tritonserver "$@" \
  "--http-restricted-api=$apis:plansmith-secret=$key" \
  "--grpc-restricted-protocol=$apis:plansmith-secret=$key"
