"""The bridge from Gumlet to Kafka: makes each webhook durable, and publishes it to Kafka as a normalized event.

To follow one delivery from the socket to Kafka, read these modules in this order:

1. `ingress/protocol.py`: the bytes of a connection, and its limits. aiohttp parses them into a request.
2. `ingress/server.py`: `handle_request` checks the request, enqueues the delivery and responds with 200.
3. `queue/journal.py`: `append` enqueues the delivery, `read` returns it to the publisher.
4. `queue/group_commit.py`: deliveries that wait at the same time become one commit of the writer thread.
5. `queue/log.py`: a commit is one frame, written and synced.
6. `publisher/publisher.py`: reads, normalizes, sends, and settles what Kafka has confirmed.
7. `contract/normalizer.py`: a delivery becomes a Kafka record.
8. `publisher/sending.py`: records become batches of an aiokafka producer, and their confirmations.

`daemon.py` creates all the parts and connects them. Every other module holds details of one of these eight, or serves
the operators (`admin/`, `telemetry/`, `operations/`, `cli/`) or the developers (`devtools/`).
"""
