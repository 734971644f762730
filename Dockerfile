FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --profile dist

FROM debian:bookworm-slim
# the certificates are for clients: `switchboard agent`, `client` and `send` against a broker behind TLS
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /var/lib/switchboard --create-home switchboard
COPY --from=build /src/target/dist/switchboard /usr/local/bin/
COPY config/production.toml /etc/switchboard/production.toml
USER switchboard
WORKDIR /var/lib/switchboard
VOLUME /var/lib/switchboard
EXPOSE 8000
ENTRYPOINT ["switchboard"]
CMD ["serve", "--config", "/etc/switchboard/production.toml", "--bind", "0.0.0.0:8000"]
