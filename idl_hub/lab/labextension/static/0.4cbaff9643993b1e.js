"use strict";(self.rspackChunkidl_hub=self.rspackChunkidl_hub||[]).push([[0],{18(e,t,r){var i=r(19),n=r.n(i),o=r(20),a=(r.n(o))()(n());a.push([e.id,`.idl-Status, .idl-Panel { --idl-notice: #ffe7a8; --idl-notice-text: #4d3800; }
[data-jp-theme-light="false"] :is(.idl-Status, .idl-Panel) { --idl-notice: #4a3d12; --idl-notice-text: #f5dd9c; }

.idl-Status { display: flex; }
.idl-Status-button { display: inline-flex; gap: .6em; align-items: center; border: 0; margin: 0; padding: 0 4px; background: none; color: inherit; font: inherit; cursor: pointer; white-space: nowrap; }
.idl-Status-button:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: -2px; }
.idl-Status-urgent:empty { display: none; }
.idl-Status-urgent { font-weight: 700; font-variant-numeric: tabular-nums; }
.idl-Status.jp-mod-clicked span { color: #fff; }
.idl-Status[data-tone="warning"]:not(.jp-mod-clicked) { background: var(--idl-notice); }
.idl-Status[data-tone="warning"]:not(.jp-mod-clicked) span { color: var(--idl-notice-text); }
.idl-Status[data-tone="error"]:not(.jp-mod-clicked) { background: #b3261e; font-weight: 600; }
.idl-Status[data-tone="error"]:not(.jp-mod-clicked) span { color: #fff; }

.idl-Panel { width: 350px; min-width: min(350px, calc(100vw - 16px)); max-width: calc(100vw - 16px); max-height: 70vh; overflow: auto; box-sizing: border-box; padding: 1rem; background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); font-size: var(--jp-ui-font-size1); line-height: 1.45; }
.idl-Panel:focus { outline: none; }
.idl-Panel h1 { margin: 0; font-size: 1.15em; font-weight: 600; }
.idl-Panel h2 { margin: 1.1em 0 .4em; font-size: 1em; font-weight: 600; }
.idl-Panel p { margin: 0; }
.idl-Panel-card + .idl-Panel-card { margin-top: 1em; padding-top: 1em; border-top: 1px solid var(--jp-border-color2); }
.idl-quiet { color: var(--jp-ui-font-color2); }
.idl-tag { margin-left: .6em; padding: .1em .55em; border-radius: 1em; background: var(--idl-notice); color: var(--idl-notice-text); font-size: .8em; font-weight: 600; vertical-align: middle; }
.idl-Panel-meter { display: grid; grid-template-columns: 4.5rem 1fr auto; gap: .7rem; align-items: center; margin-top: .5em; }
.idl-Panel-value { min-width: 6.5rem; text-align: right; font-variant-numeric: tabular-nums; }
.idl-Panel-bar { height: 6px; border-radius: 3px; background: var(--jp-layout-color3); overflow: hidden; }
.idl-Panel-bar > span { display: block; height: 100%; background: var(--jp-brand-color1); transition: width .3s; }
.idl-Panel-facts { display: grid; grid-template-columns: 7rem 1fr; gap: .15rem .7rem; margin: .9em 0 .6em; }
.idl-Panel-facts dt { color: var(--jp-ui-font-color2); }
.idl-Panel-facts dd { margin: 0; text-align: right; }
.idl-Panel-holders { list-style: none; margin: 0; padding: 0; }
.idl-Panel-holders li { display: flex; gap: .7rem; align-items: center; justify-content: space-between; padding: .3rem 0; border-top: 1px solid var(--jp-border-color2); }
.idl-Panel-holder { display: flex; flex-direction: column; min-width: 0; }
.idl-Panel-holder strong { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
.idl-Panel-holders button { flex: none; }
.idl-Panel .idl-Panel-remark { margin-top: 1em; padding: .5em .7em; border-left: 3px solid var(--jp-warn-color1); background: var(--jp-layout-color2); }
.idl-Panel [hidden], .idl-Notice [hidden] { display: none; }

.idl-Notices { position: fixed; z-index: 20000; top: 100px; left: 50%; transform: translateX(-50%); width: min(640px, calc(100vw - 16px)); display: flex; flex-direction: column; gap: .5rem; }
.idl-Notice { box-sizing: border-box; padding: .9rem 1.1rem; border: 1px solid var(--jp-border-color1); border-left: 6px solid var(--jp-warn-color1); border-radius: 4px; background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); box-shadow: var(--jp-elevation-z12); font-size: var(--jp-ui-font-size1); line-height: 1.45; }
.idl-Notice[data-tone="error"] { border-left-color: var(--jp-error-color1); }
.idl-Notice h2 { margin: 0 0 .3rem; font-size: 1.15em; font-weight: 600; }
.idl-Notice p { margin: 0 0 .3rem; overflow-wrap: anywhere; }
.idl-Notice-timer { float: right; margin-left: 1rem; font-size: 1.7em; font-weight: 600; line-height: 1.1; font-variant-numeric: tabular-nums; }
.idl-Notice .idl-Notice-saved { color: var(--jp-ui-font-color2); }
.idl-Notice-items { list-style: none; margin: .4rem 0; padding: 0; max-height: 40vh; overflow: auto; }
.idl-Notice-items li { display: flex; gap: .7rem; align-items: center; padding: .2rem 0; border-top: 1px solid var(--jp-border-color2); font-variant-numeric: tabular-nums; }
.idl-Notice-path { flex: 1; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.idl-Notice-items button { flex: none; }
.idl-Notice-actions { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .7rem; }
@media (prefers-reduced-motion: reduce) { .idl-Panel-bar > span { transition: none; } }
`,""]),r.d(t,{},{A:a})},20(e){e.exports=function(e){var t=[];return t.toString=function(){return this.map(function(t){var r="",i=void 0!==t[5];return t[4]&&(r+="@supports (".concat(t[4],") {")),t[2]&&(r+="@media ".concat(t[2]," {")),i&&(r+="@layer".concat(t[5].length>0?" ".concat(t[5]):""," {")),r+=e(t),i&&(r+="}"),t[2]&&(r+="}"),t[4]&&(r+="}"),r}).join("")},t.i=function(e,r,i,n,o){"string"==typeof e&&(e=[[null,e,void 0]]);var a={};if(i)for(var l=0;l<this.length;l++){var d=this[l][0];null!=d&&(a[d]=!0)}for(var c=0;c<e.length;c++){var s=[].concat(e[c]);i&&a[s[0]]||(void 0!==o&&(void 0===s[5]||(s[1]="@layer".concat(s[5].length>0?" ".concat(s[5]):""," {").concat(s[1],"}")),s[5]=o),r&&(s[2]&&(s[1]="@media ".concat(s[2]," {").concat(s[1],"}")),s[2]=r),n&&(s[4]?(s[1]="@supports (".concat(s[4],") {").concat(s[1],"}"),s[4]=n):s[4]="".concat(n)),t.push(s))}},t}},19(e){e.exports=function(e){return e[1]}},11(e,t,r){r.r(t);var i=r(12),n=r.n(i),o=r(13),a=r.n(o),l=r(14),d=r.n(l),c=r(15),s=r.n(c),p=r(16),u=r.n(p),f=r(17),m=r.n(f),g=r(18),h={};h.styleTagTransform=m(),h.setAttributes=s(),h.insert=d().bind(null,"head"),h.domAPI=a(),h.insertStyleElement=u(),n()(g.A,h);let v=g.A&&g.A.locals?g.A.locals:void 0;r.d(t,{},{default:v})},12(e){var t=[];function r(e){for(var r=-1,i=0;i<t.length;i++)if(t[i].identifier===e){r=i;break}return r}function i(e,i){for(var n={},o=[],a=0;a<e.length;a++){var l=e[a],d=i.base?l[0]+i.base:l[0],c=n[d]||0,s="".concat(d," ").concat(c);n[d]=c+1;var p=r(s),u={css:l[1],media:l[2],sourceMap:l[3],supports:l[4],layer:l[5]};if(-1!==p)t[p].references++,t[p].updater(u);else{var f=function(e,t){var r=t.domAPI(t);return r.update(e),function(t){t?(t.css!==e.css||t.media!==e.media||t.sourceMap!==e.sourceMap||t.supports!==e.supports||t.layer!==e.layer)&&r.update(e=t):r.remove()}}(u,i);i.byIndex=a,t.splice(a,0,{identifier:s,updater:f,references:1})}o.push(s)}return o}e.exports=function(e,n){var o=i(e=e||[],n=n||{});return function(e){e=e||[];for(var a=0;a<o.length;a++){var l=r(o[a]);t[l].references--}for(var d=i(e,n),c=0;c<o.length;c++){var s=r(o[c]);0===t[s].references&&(t[s].updater(),t.splice(s,1))}o=d}}},14(e){var t={};e.exports=function(e,r){var i=function(e){if(void 0===t[e]){var r=document.querySelector(e);if(window.HTMLIFrameElement&&r instanceof window.HTMLIFrameElement)try{r=r.contentDocument.head}catch(e){r=null}t[e]=r}return t[e]}(e);if(!i)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");i.appendChild(r)}},16(e){e.exports=function(e){var t=document.createElement("style");return e.setAttributes(t,e.attributes),e.insert(t,e.options),t}},15(e,t,r){e.exports=function(e){var t=r.nc;t&&e.setAttribute("nonce",t)}},13(e){e.exports=function(e){if("u"<typeof document)return{update:function(){},remove:function(){}};var t=e.insertStyleElement(e);return{update:function(r){var i,n,o;i="",r.supports&&(i+="@supports (".concat(r.supports,") {")),r.media&&(i+="@media ".concat(r.media," {")),(n=void 0!==r.layer)&&(i+="@layer".concat(r.layer.length>0?" ".concat(r.layer):""," {")),i+=r.css,n&&(i+="}"),r.media&&(i+="}"),r.supports&&(i+="}"),(o=r.sourceMap)&&"u">typeof btoa&&(i+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(o))))," */")),e.styleTagTransform(i,t,e.options)},remove:function(){var e;null===(e=t).parentNode||e.parentNode.removeChild(e)}}}},17(e){e.exports=function(e,t){if(t.styleSheet)t.styleSheet.cssText=e;else{for(;t.firstChild;)t.removeChild(t.firstChild);t.appendChild(document.createTextNode(e))}}}}]);