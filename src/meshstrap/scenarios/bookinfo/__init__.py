"""Istio's Bookinfo: six services, three versions of reviews, one page through the gateway."""

from meshstrap.scenarios.bookinfo.scenario import Bookinfo

SCENARIO = Bookinfo()
