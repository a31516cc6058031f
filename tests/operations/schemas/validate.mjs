// Validates the custom resources on standard input, a JSON list, against the schemas of their operators; says what is wrong with each.
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject";
import { PodMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor";
import { PrometheusRule } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule";
import { readFileSync } from "node:fs";

const models = { HTTPRoute, PodMonitor, PrometheusRule, ScaledObject };
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    new models[resource.kind](resource).validate();
  } catch (error) {
    console.log(`${resource.kind} ${resource.metadata.name}: ${error.message}`);
  }
}
