// Command coredns is the DNS server of the lab's node-level cluster: CoreDNS with only the plugins that the lab's
// Corefile names. The stock binary links every cloud vendor's client and takes three times as long to build.
package main

import (
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"

	"github.com/coredns/coredns/coremain"
)

func main() {
	coremain.Run()
}
