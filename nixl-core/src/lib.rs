//! Agents, regions, requests and the negotiator; knows no backend by name.
