# Short names for what CONTRIBUTING explains. Everything works without `just`, too.

# Show a cluster's snapshot arriving, from nothing
demo *args:
    cargo lab demo {{args}}

# Run all tests
test *args:
    cargo lab test {{args}}

# Run what CI checks before it runs tests
check:
    .ci/run --checks-only

# Write the generated files anew
generate:
    cargo run --quiet --package meshsync-operator -- crd generate > deploy/crds/meshsyncs.yaml

# Build the release images; unproven where no Docker engine is
image:
    docker build --file deploy/Dockerfile --target agent --tag localhost/meshsync-agent:0.1.0 .
    docker build --file deploy/Dockerfile --target operator --tag localhost/meshsync-operator:0.1.0 .

# Start a cluster that stays up
up *args:
    cargo lab up {{args}}

# Remove it
down *args:
    cargo lab down {{args}}

# Measure the agent beside a client that only reads
bench *args:
    cargo lab bench {{args}}

# Measure each step from the API server's bytes to a message
bench-steps *args:
    cargo bench --package meshsync-agent {{args}}
