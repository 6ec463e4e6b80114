#!/bin/sh
# Made by `make generate-deploy`; do not edit.
# Grants the users their rights on the contract's topics and groups, with an administrator's properties file.
# bridge: the daemon. bridge-operator: commands that read and republish events. bridge-topics: topics apply.
# bridge-consumer: a consumer whose group's name begins with gumlet-. Usage:
#   BOOTSTRAP=kafka:9092 COMMAND_CONFIG=admin.properties sh kafka-acls.sh
set -eu
kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$COMMAND_CONFIG" --add \
  --allow-principal User:bridge --operation Write --operation DescribeConfigs \
  --topic gumlet. --resource-pattern-type prefixed
kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$COMMAND_CONFIG" --add \
  --allow-principal User:bridge-operator --operation Read --operation Write --operation DescribeConfigs \
  --topic gumlet. --resource-pattern-type prefixed
kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$COMMAND_CONFIG" --add \
  --allow-principal User:bridge-topics --operation Create --operation Alter --operation AlterConfigs \
  --topic gumlet. --resource-pattern-type prefixed
kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$COMMAND_CONFIG" --add \
  --allow-principal User:bridge-consumer --operation Read \
  --topic gumlet. --resource-pattern-type prefixed
kafka-acls.sh --bootstrap-server "$BOOTSTRAP" --command-config "$COMMAND_CONFIG" --add \
  --allow-principal User:bridge-consumer --operation Read \
  --group gumlet- --resource-pattern-type prefixed
