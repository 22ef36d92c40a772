"""Storage servers for tests, on the loopback interface, on free ports; each test process has its own.

Fixtures (known in every test, see `fixtures`; a server starts when the first test asks for it):

- `azurite`, `azurite_https`: Azure Blob by Azurite (`azurite.Azurite`). `azurite.new_container()` makes a container and
  gives its name, `azurite.container_url(name, "rwl")` its URL with a SAS, `azurite.blob_url(name, blob)` one of a blob,
  `azurite.client()` the official SDK's BlobServiceClient. The https one has a certificate of a CA made for the session:
  set `SSL_CERT_FILE` to `azurite_https.ca_path` (Python, OpenSSL and obstore read it).
- `new_azurite`: makes servers of one's own, to be killed and started again: `new_azurite().kill()`, `.start()`.
- `moto_s3`: S3 by moto (`moto.MotoS3`). `moto_s3.new_bucket()`, `moto_s3.options` (endpoint and keys for obstore).
- `http_server`: answers that a test scripts, faults among them (`http.HttpServer` and the answers beside it).

Azurite is put into `.cache/azurite` by `tools/azurite.sh` (`make test` does); without it the tests that ask for it are
skipped, in CI they fail.
"""
